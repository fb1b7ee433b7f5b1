"""Batched answers equal single ones."""

import functools
import queue
from dataclasses import replace

import pytest
import torch
from serving import QUICK, tiny_stacked
from tolerances import assert_close

from nestling.continual.study.change import Factors
from nestling.data import byte_tokenizer
from nestling.models import create
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import stack_model
from nestling.serve.added import Added, thin_change
from nestling.serve.batch import Batch
from nestling.serve.engine import Answer, Engine
from nestling.serve.sampling import Draw, Sampling
from nestling.serve.speech import Speech

PROMPTS = ([5, 9, 77, 30, 2, 8, 120], [4], [60, 61, 62], [200, 201, 202, 203, 204])
TEXT = "na\u00efve \u2603 \U0001f426 END of it"


@functools.cache
def reader(kind):
    """An untrained model."""
    if kind == "llama":
        return FunctionalModel(tiny_stacked().model.eval())
    hope = create(
        "hope-tiny", vocab_size=258, hidden_size=16, num_hidden_layers=1, num_heads=2,
        intermediate_size=16, periods=(8, 32),
        **{"self_titans.period": 8, "self_titans.projection_period": 4},
    )  # fmt: skip
    return FunctionalModel(stack_model(hope, byte_tokenizer()).model.eval())


def batch(kind, rows, temperature=0.0):
    draws = [Draw(Sampling(temperature=temperature, seed=row)) for row in rows]
    return Batch(reader(kind), {}, [PROMPTS[row] for row in rows], draws)


@torch.no_grad()
def logits(of, tokens):
    """The logits of each step, given these tokens."""
    found = []
    for chosen in tokens:
        found.append(of.logits())
        of._next = torch.tensor(chosen)[:, None]
        of._mask = torch.cat((of._mask, of._mask.new_ones(len(chosen), 1)), 1)
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["llama", "hope"])
def test_batched_row_equals_single_row(kind):
    """To within float32's tolerance, for any left padding."""
    chosen = [[3, 50, 90, 7], [8, 9, 10, 11], [250, 1, 2, 3]]
    together = logits(batch(kind, range(4)), chosen)
    for row in range(4):
        alone = logits(batch(kind, [row]), [[tokens[row]] for tokens in chosen])
        assert_close(together[:, row], alone[:, 0])


@pytest.mark.parametrize("kind", ["llama", "hope"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ended_rows_do_not_affect_the_others(kind, temperature):
    whole = batch(kind, range(4), temperature)
    steps = [whole.step() for _ in range(6)]
    part = batch(kind, range(4), temperature)
    first = [part.step() for _ in range(3)]
    part.keep([1, 3])
    rest = [part.step() for _ in range(3)]
    assert first == steps[:3] and rest == [[step[1], step[3]] for step in steps[3:]]


def learned(seed):
    """A random change of the MLPs' output maps, and the model's weights with it."""
    own = dict(reader("llama").model.named_parameters())
    draw = torch.Generator().manual_seed(seed)
    change = {
        name: Factors(
            0.3 * torch.randn(len(value), 1 + seed, generator=draw),
            torch.randn(1 + seed, value.shape[1], generator=draw),
        )
        for name, value in own.items()
        if name.endswith("down_proj.weight")
    }
    whole = {n: own[n].detach() + factors.product() for n, factors in change.items()}
    return Added(str(seed), change), whole


def test_rows_of_several_memories_in_one_batch():
    """To within float32's tolerance each row has the logits of its memory's own weights."""
    added, weights = zip(*map(learned, range(3)), strict=True)
    chosen = [[3, 50, 90, 7], [8, 9, 10, 11], [250, 1, 2, 3]]
    draws = [Draw(Sampling()) for _ in PROMPTS]
    together = Batch(reader("llama"), {}, PROMPTS, draws, [*added[:2], None, added[2]])
    found = logits(together, chosen)
    for row, own in enumerate([*weights[:2], {}, weights[2]]):
        alone = Batch(reader("llama"), own, [PROMPTS[row]], draws[:1])
        assert_close(found[:, row], logits(alone, [[tokens[row]] for tokens in chosen])[:, 0])
    assert float((found[:, 0] - found[:, 1]).abs().max()) > 1e-2
    together.keep([1, 3])
    together._next = torch.tensor([[5], [5]])
    assert together.logits().shape[0] == 2
    assert all(not module._forward_hooks for module in reader("llama").model.modules())


@torch.no_grad()
def test_batches_can_be_joined():
    """However batches join and rows leave, each row has the logits of a single row."""
    draws = [Draw(Sampling()) for _ in PROMPTS]
    added = [learned(0)[0], None, learned(1)[0], None]

    def new(rows):
        prompts = [PROMPTS[row] for row in rows]
        return Batch(reader("llama"), {}, prompts, draws[: len(rows)], [added[r] for r in rows])

    tokens = [[3, 50, 90, 7], [8, 9, 10, 11], [250, 1, 2, 3], [4, 5, 6, 7]]
    alone = [logits(new([row]), [[step[row]] for step in tokens])[:, 0] for row in range(4)]
    first, second = new([0, 1]), new([2, 3])
    logits(first, [step[:2] for step in tokens[:2]])
    logits(second, [tokens[0][2:]])
    assert first.joins(second) and not batch("hope", [0]).joins(batch("hope", [1]))
    first.join(second)
    assert_close(first.logits(), torch.stack([alone[0][2], alone[1][2], alone[2][1], alone[3][1]]))
    first._next = torch.tensor([[tokens[2][0]], [tokens[2][1]], [tokens[1][2]], [tokens[1][3]]])
    first._mask = torch.cat((first._mask, first._mask.new_ones(4, 1)), 1)
    first.keep([1, 3])
    assert first._mask.shape[1] == len(PROMPTS[3]) + 2  # no unused column is left
    assert_close(first.logits(), torch.stack([alone[1][3], alone[3][2]]))


class _Apart(Engine):
    """Begins a batch for each answer, and notes the count whenever batches are merged."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noted = []

    def _batches(self, new):
        return [found for answer in new for found in super(_Apart, self)._batches([answer])]

    def _fit(self, one, other):
        self.noted.append(self.count)
        return super()._fit(one, other)


def test_answers_are_counted_once_while_batches_merge():
    """Otherwise a server with as many clients as places refuses some of them."""
    engine, done = _Apart(reader("llama"), rows=8, waiting=4), queue.Queue()
    engine.submit(
        [
            Answer(ids=ids, speech=Speech(byte_tokenizer().decode), most=9, tell=done.put)
            for ids in PROMPTS
        ]
    )
    engine.start()
    ended = 0
    while ended < len(PROMPTS):
        ended += done.get().finish is not None
    engine.stop()
    assert len(engine.noted) > 2 and max(engine.noted) <= len(PROMPTS)
    assert engine.count == 0


def test_nonfinite_logits_affect_only_their_row():
    change = {n: Factors(1e30 * f.left, 1e30 * f.right) for n, f in learned(1)[0].change.items()}
    wild = Added("wild", change)  # finite, but its outputs are not
    engine, found = Engine(reader("llama"), rows=3, waiting=9), queue.Queue()
    engine.start()
    for rows in ([None], [wild, None]):
        engine.submit(
            [
                Answer(
                    ids=PROMPTS[0], speech=Speech(byte_tokenizer().decode), most=5, added=added,
                    tell=lambda piece, own=added: found.put((own is None, piece)),
                    sampling=Sampling(temperature=1.0, seed=1),
                )
                for added in rows
            ]
        )  # fmt: skip
        said = {True: [], False: []}
        while sum(bool(p and p[-1].finish) for p in said.values()) < len(rows):
            own, piece = found.get()
            said[own].append(piece)
        if rows == [None]:
            alone = said[True]
    assert said[True] == alone and [piece.finish for piece in said[False]] == ["error"]
    engine.stop()


def test_only_low_rank_changes_are_batched(served):
    learner = served.learner.fork()
    learner.read("The seal costs nine crowns.")
    assert thin_change(learner, (), served.maps) == {}
    [one] = learner.study(replace(QUICK, rank=1))
    thin = thin_change(learner, [one], served.maps)
    assert thin and all(len(factors.right) == 1 for factors in thin.values())
    assert thin_change(learner, [one], frozenset()) is None
    for spoilt in (torch.full_like, lambda x, _: x.repeat(9, 1) if len(x) == 1 else x.repeat(1, 9)):
        change = {n: Factors(*(spoilt(x, torch.inf) for x in f)) for n, f in one.change.items()}
        assert thin_change(learner, [one._replace(change=change)], served.maps) is None


def test_each_answer_uses_its_memory_and_ends_independently():
    model = reader("llama")
    scaled = {name: 1.5 * w.detach() for name, w in model.model.named_parameters()}
    engine, found = Engine(model, rows=3, waiting=9), {}
    done: queue.Queue = queue.Queue()

    def answer(number, weights):
        def tell(piece):
            found[number] = found.get(number, "") + piece.text
            if piece.finish:
                done.put(piece.finish)

        text = Speech(byte_tokenizer().decode)
        key, ids = f"{weights is scaled}", PROMPTS[number % 4]
        return Answer(ids=ids, speech=text, tell=tell, most=4 + number, weights=weights, key=key)

    def run(answers):
        engine.submit(answers)
        for _ in answers:
            assert done.get() == "length"
        return dict(found)

    engine.start()
    together = run([answer(n, scaled if n % 2 else {}) for n in range(8)])
    for number in range(8):
        found.clear()
        assert run([answer(number, scaled if number % 2 else {})]) == {number: together[number]}
    engine.stop()


def test_streamed_pieces_are_final_and_hold_whole_characters():
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    for stops, expected in [((), TEXT), (("END", "zzz"), TEXT[: TEXT.index("END")])]:
        speech = Speech(tokenizer.decode, stops)
        pieces = [speech.take(token) for token in ids]
        assert "".join(pieces) + speech.end() == expected == speech.text
        assert not any("\ufffd" in piece for piece in pieces)
    broken = Speech(tokenizer.decode)
    assert "".join(map(broken.take, ids[:3])) + broken.end() == tokenizer.decode(ids[:3])
