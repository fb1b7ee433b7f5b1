"""The head as a level against a reference loop, in every form, with every gradient."""

import pytest
import torch
from naive_head import naive_head
from tolerances import assert_close
from torch import nn

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.head import KEYS, HeadLevel, chunk

ROWS, LENGTH, WIDTH, WORDS, PERIOD = 3, 23, 5, 7, 4


class Text:
    """Hidden states and tokens; rows have document starts and padding at random positions."""

    def __init__(self, keys: str = "hidden", slots: int | None = None, period: int = PERIOD):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.hidden = draw(ROWS, LENGTH, WIDTH).requires_grad_()
        self.weight = draw(WORDS, WIDTH).requires_grad_()
        self.ids = torch.randint(WORDS, (ROWS, LENGTH), generator=generator)
        self.reset = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
        self.reset[0, 9] = self.reset[1, 0] = self.reset[2, 16] = self.reset[2, 18] = True
        self.mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        self.mask[0, 5:9] = self.mask[1, 0:2] = self.mask[1, 12] = self.mask[2, 18:20] = False
        self.embedded = draw(ROWS, LENGTH, WIDTH).requires_grad_()
        self.level = HeadLevel(WIDTH, period, keys, slots).double()
        self.level.init_weights(generator)
        with torch.no_grad():
            for p in self.level.parameters():
                p.add_(0.7 * draw(*p.shape) if p.ndim else 0.7)
        self.values = [self.hidden, self.weight, *self.level.parameters()]
        if keys == "context":
            self.values.append(self.embedded)

    def loops(self):
        """Logits of the valid positions of each row, and D."""
        found = []
        for row in range(ROWS):
            here = self.mask[row].nonzero()[:, 0]
            document = self.reset[row].long().cumsum(0)[here]
            starts = [i > 0 and bool(document[i] != document[i - 1]) for i in range(len(here))]
            logits = self.hidden[row, here] @ self.weight.T
            queries, keys = self.keys(row, here, starts)
            arguments = self.ids[row, here].tolist(), self.level.period, starts
            options = {"learned": self.level.context is not None, "slots": self.level.slots}
            found.append(naive_head(queries, keys, logits, *arguments, **options))
        return found

    def keys(self, row, here, starts):
        """Queries and keys of the valid positions of a row."""
        hidden, level = self.hidden[row, here], self.level
        unit, strength = hidden / hidden.norm(dim=-1, keepdim=True), self.level.read_strength
        if level.context is None:
            return unit * strength, unit
        maps, token = level.context, self.embedded[row, here]
        token = token / token.norm(dim=-1, keepdim=True)
        keys = unit @ maps.hidden.weight.T + token @ maps.token.weight.T
        for t in range(1, len(here)):
            if not starts[t]:
                keys[t] = keys[t] + token[t - 1] @ maps.before.weight.T
        keys = keys / keys.norm(dim=-1, keepdim=True)
        read = (hidden @ maps.read_gate.weight.T).exp()
        write = 2 / (1 + (-hidden @ maps.write_gate.weight.T - maps.write_gate.bias).exp())
        return keys * strength * read, keys * write

    def read(self, cuts, **options):
        """The same with the level, in pieces."""
        state, outputs, start = self.level.init_state(ROWS, WORDS), [], 0
        for size in cuts:
            part = slice(start, start + size)
            y, state = self.level(
                lambda h: h @ self.weight.T,
                self.hidden[:, part],
                self.embedded[:, part],
                self.ids[:, part],
                state,
                Flow(self.reset[:, part], self.mask[:, part]),
                **options,
            )
            outputs.append(y)
            start += size
        return torch.cat(outputs, 1), state


def columns(state):
    """D with a column for every token, zero for those that have none."""
    if state.columns.every:
        return state.weight
    whole = state.weight.new_zeros(ROWS, WIDTH, WORDS)
    for row, tokens in enumerate(state.tokens):
        assert len(set(found := tokens[tokens >= 0].tolist())) == len(found)
        assert not state.weight[row, :, tokens < 0].any()
        whole[row, :, tokens[tokens >= 0]] = state.weight[row, :, tokens >= 0]
    return whole


SPLITS = [(LENGTH,), (1,) * LENGTH, (3, 1, 0, 9, 2, 8), (4, 4, 15)]


each_keys = pytest.mark.parametrize("keys", KEYS)
# of WORDS tokens; fewer must lose theirs
each_slots = pytest.mark.parametrize("slots", [None, PERIOD, 5, WORDS, 40])
each_kept = pytest.mark.parametrize("kept", [0, chunk.KEPT], ids=["made again", "kept"])


@each_kept
@each_keys
@each_slots
@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_matches_reference_loop_in_any_split_with_gradients(cuts, slots, keys, kept, monkeypatch):
    monkeypatch.setattr(chunk, "KEPT", kept)
    text = Text(keys, slots)
    logits, state = text.read(cuts)
    wanted = text.loops()
    for row, (y, added) in enumerate(wanted):
        assert_close(logits[row, text.mask[row]], y)
        assert_close(columns(state)[row], added)
    assert not state.weight.requires_grad and not state.errors.requires_grad
    assert not state.keys.requires_grad and not state.previous.requires_grad
    if keys == "context" and len(cuts) > 1:
        return  # keys learn from what is read in the same call
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    ours = torch.autograd.grad((logits * weight)[text.mask].sum(), text.values)
    pairs = zip(wanted, weight, text.mask, strict=True)
    loops = torch.autograd.grad(sum((y * w[m]).sum() for (y, _), w, m in pairs), text.values)
    for one, other in zip(ours, loops, strict=True):
        assert_close(one, other)


@each_keys
@pytest.mark.parametrize("period", [1, 2, 7])
def test_matches_reference_loop_at_other_periods(period, keys):
    text = Text(keys, slots=period, period=period)
    for cuts in SPLITS:
        logits, state = text.read(cuts)
        for row, (y, added) in enumerate(text.loops()):
            assert_close(logits[row, text.mask[row]], y)
            assert_close(columns(state)[row], added)


@pytest.mark.parametrize("slots", [None, 5])
def test_other_integers_and_lower_precision(slots):
    """Tokens may be of any integer type; under autocast all is in the state's type."""
    text = Text(slots=slots)
    text.level.float()
    text.weight, text.hidden, text.embedded = (
        x.detach().float() for x in (text.weight, text.hidden, text.embedded)
    )
    wanted, _ = text.read((LENGTH,))
    text.ids = text.ids.int()
    for cuts in SPLITS:
        assert_close(text.read(cuts)[0][text.mask], wanted[text.mask])
    with torch.autocast("cpu", torch.bfloat16):
        for cuts in SPLITS:
            logits, state = text.read(cuts)
            assert logits.isfinite().all() and state.weight.dtype == torch.float32


def test_slots_are_those_of_the_last_tokens_to_follow():
    level = HeadLevel(2, 2, slots=3)
    state = level.init_state(1, 9)
    ids = torch.tensor([[0, 1, 2, 3, 1, 5, 1, 8]])
    hidden = torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(0))
    for stop, wanted in ((3, {1, 2}), (5, {1, 2, 3}), (7, {1, 3, 5})):
        here = hidden[:, :stop]
        _, after = level(lambda h: h @ torch.eye(2, 9), here, here, ids[:, :stop], state)
        assert set(after.tokens[0].tolist()) - {-1} == wanted
    assert level.level(9).parameters == 2 * 3 and level.level(2).parameters == 2 * 2
    with pytest.raises(UserError, match="head_slots is 3, fewer than the 4 tokens"):
        HeadLevel(2, 4, slots=3)


@each_keys
@each_slots
def test_aligned_rows_take_whole_periods(keys, slots):
    """The fast path (no padding, aligned rows); given states are not modified."""
    text = Text(keys, slots)
    text.reset[:], text.mask[:] = False, True
    for cuts in ((LENGTH,), (8, 15)):
        logits, state = text.read(cuts)
        for row, (y, added) in enumerate(text.loops()):
            assert_close(logits[row], y)
            assert_close(columns(state)[row], added)
    copies = [x.clone() for x in state]
    for size in (1, LENGTH):
        more = text.hidden[:, :size], text.embedded[:, :size], text.ids[:, :size], state
        text.level(lambda h: h @ text.weight.T, *more)
        assert all(map(torch.equal, copies, state))


@each_kept
@each_slots
def test_second_order_gradients(kept, slots, monkeypatch):
    monkeypatch.setattr(chunk, "KEPT", kept)
    text = Text(slots=slots)

    def read(hidden, weight, strength):
        text.hidden, text.weight = hidden, weight
        del text.level.read_strength
        text.level.read_strength = strength
        return text.read((11, 12))[0]

    # writes are constants for gradients, so finite differences of outputs do not apply
    def loops(hidden, weight, strength):
        text.hidden, text.weight = hidden, weight
        return nn.utils.rnn.pad_sequence([y for y, _ in text.loops()], batch_first=True)

    text.mask[:] = True
    values = text.values
    outputs = [read(*values), loops(*values)]
    found = []
    for y in outputs:
        first = torch.autograd.grad(y.pow(3).sum(), values, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), values))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


def test_learned_keys_refuse_second_order_gradients():
    text = Text("context")
    logits, _ = text.read((LENGTH,))
    (first,) = torch.autograd.grad(logits.square().sum(), text.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@each_keys
@each_slots
def test_last_positions_only_equals_full_output(keys, slots):
    text = Text(keys, slots)
    with torch.no_grad():
        whole, state = text.read((LENGTH,))
        text.level.period = 4
        few, after = text.read((LENGTH,), last=3)
    assert_close(few, whole[:, -3:])
    for one, other in zip(state, after, strict=True):
        assert_close(one, other)
