"""The head as a level: the loops of its equations, in every form, with every gradient."""

import pytest
import torch
from naive_head import naive_head
from tolerances import assert_close
from torch import nn

from nestling.core.memory import Flow
from nestling.memories.head import HeadLevel, chunk

ROWS, LENGTH, WIDTH, WORDS, PERIOD = 3, 23, 5, 7, 4


class Text:
    """Hidden states and tokens, rows of which begin documents and have padding where they like."""

    def __init__(self):
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
        self.level = HeadLevel(WIDTH, PERIOD).double()
        with torch.no_grad():
            self.level.read_strength.fill_(1.7)
        self.values = [self.hidden, self.weight, self.level.read_strength]

    def loops(self):
        """Logits of the valid positions of each row, and D."""
        keys = self.hidden / self.hidden.norm(dim=-1, keepdim=True)
        found = []
        for row in range(ROWS):
            here = self.mask[row].nonzero()[:, 0]
            document = self.reset[row].long().cumsum(0)[here]
            starts = [i > 0 and bool(document[i] != document[i - 1]) for i in range(len(here))]
            logits = self.hidden[row, here] @ self.weight.T
            arguments = self.ids[row, here].tolist(), self.level.read_strength, PERIOD, starts
            found.append(naive_head(keys[row, here], logits, *arguments))
        return found

    def read(self, cuts, **options):
        """The same with the level, in pieces."""
        state, outputs, start = self.level.init_state(ROWS, WORDS), [], 0
        for size in cuts:
            part = slice(start, start + size)
            y, state = self.level(
                lambda h: h @ self.weight.T,
                self.hidden[:, part],
                self.ids[:, part],
                state,
                Flow(self.reset[:, part], self.mask[:, part]),
                **options,
            )
            outputs.append(y)
            start += size
        return torch.cat(outputs, 1), state


SPLITS = [(LENGTH,), (1,) * LENGTH, (3, 1, 0, 9, 2, 8), (4, 4, 15)]


@pytest.mark.parametrize("kept", [0, chunk.KEPT], ids=["made again", "kept"])
@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_equals_the_loops_in_any_split_with_gradients(cuts, kept, monkeypatch):
    monkeypatch.setattr(chunk, "KEPT", kept)
    text = Text()
    logits, state = text.read(cuts)
    wanted = text.loops()
    for row, (y, added) in enumerate(wanted):
        assert_close(logits[row, text.mask[row]], y)
        assert_close(state.weight[row], added)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    ours = torch.autograd.grad((logits * weight)[text.mask].sum(), text.values)
    pairs = zip(wanted, weight, text.mask, strict=True)
    loops = torch.autograd.grad(sum((y * w[m]).sum() for (y, _), w, m in pairs), text.values)
    for one, other in zip(ours, loops, strict=True):
        assert_close(one, other)
    assert not state.weight.requires_grad and not state.errors.requires_grad


def test_rows_that_stand_together_take_whole_periods():
    """The fast path: no padding, all rows aligned; and states that were given are left alone."""
    text = Text()
    text.reset[:], text.mask[:] = False, True
    for cuts in ((LENGTH,), (8, 15)):
        logits, state = text.read(cuts)
        for row, (y, added) in enumerate(text.loops()):
            assert_close(logits[row], y)
            assert_close(state.weight[row], added)
    copies = [x.clone() for x in state]
    for size in (1, LENGTH):
        more = text.hidden[:, :size], text.ids[:, :size], state
        text.level(lambda h: h @ text.weight.T, *more)
        assert all(map(torch.equal, copies, state))


@pytest.mark.parametrize("kept", [0, chunk.KEPT], ids=["made again", "kept"])
def test_gradients_of_gradients(kept, monkeypatch):
    monkeypatch.setattr(chunk, "KEPT", kept)
    text = Text()

    def read(hidden, weight, strength):
        text.hidden, text.weight = hidden, weight
        del text.level.read_strength
        text.level.read_strength = strength
        return text.read((11, 12))[0]

    # what is written takes no part in gradients, so that differences of outputs would not do
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


def test_only_the_last_positions_give_the_same():
    text = Text()
    with torch.no_grad():
        whole, state = text.read((LENGTH,))
        text.level.period = 4
        few, after = text.read((LENGTH,), last=3)
    assert_close(few, whole[:, -3:])
    for one, other in zip(state, after, strict=True):
        assert_close(one, other)
