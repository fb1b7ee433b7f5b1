"""Answers written side by side are those written alone."""

import functools
import queue

import pytest
import torch
from serving import tiny_stacked
from tolerances import assert_close

from nestling.data import byte_tokenizer
from nestling.models import create
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import stack_model
from nestling.serve.batch import Batch
from nestling.serve.engine import Answer, Engine
from nestling.serve.sampling import Draw, Sampling
from nestling.serve.speech import Speech

PROMPTS = ([5, 9, 77, 30, 2, 8, 120], [4], [60, 61, 62], [200, 201, 202, 203, 204])
TEXT = "na\u00efve \u2603 \U0001f426 END of it"


@functools.cache
def reader(kind):
    """A model that reads, all of its parts untrained."""
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
    """The logits of each step as these tokens are chosen."""
    found = []
    for chosen in tokens:
        found.append(of.logits())
        of._next = torch.tensor(chosen)[:, None]
        of._mask = torch.cat((of._mask, of._mask.new_ones(len(chosen), 1)), 1)
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["llama", "hope"])
def test_a_row_is_what_it_is_alone(kind):
    """To within float32's tolerance, whatever is filled up before it."""
    chosen = [[3, 50, 90, 7], [8, 9, 10, 11], [250, 1, 2, 3]]
    together = logits(batch(kind, range(4)), chosen)
    for row in range(4):
        alone = logits(batch(kind, [row]), [[tokens[row]] for tokens in chosen])
        assert_close(together[:, row], alone[:, 0])


@pytest.mark.parametrize("kind", ["llama", "hope"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_end_leave_the_others_alone(kind, temperature):
    whole = batch(kind, range(4), temperature)
    steps = [whole.step() for _ in range(6)]
    part = batch(kind, range(4), temperature)
    first = [part.step() for _ in range(3)]
    part.keep([1, 3])
    rest = [part.step() for _ in range(3)]
    assert first == steps[:3] and rest == [[step[1], step[3]] for step in steps[3:]]


def test_each_answer_has_the_weights_of_its_memory_and_ends_by_itself():
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


def test_pieces_of_text_are_never_taken_back_and_hold_whole_characters():
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    for stops, expected in [((), TEXT), (("END", "zzz"), TEXT[: TEXT.index("END")])]:
        speech = Speech(tokenizer.decode, stops)
        pieces = [speech.take(token) for token in ids]
        assert "".join(pieces) + speech.end() == expected == speech.text
        assert not any("\ufffd" in piece for piece in pieces)
    broken = Speech(tokenizer.decode)
    assert "".join(map(broken.take, ids[:3])) + broken.end() == tokenizer.decode(ids[:3])
