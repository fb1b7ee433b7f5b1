"""Needles: RULER's wording, found by text search, in texts of the requested length."""

import re

import pytest

from nestling.core.error import UserError
from nestling.tasks import TASKS, UNSEEN
from nestling.tasks.niah import MultiQuery, Niah1, Niah2
from nestling.tasks.words import made_prose

NAMES = [name for name in TASKS.names() if name.startswith("niah-")]
NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (\S+) is: (\S+)\.(?=\s)")
ASKED = re.compile(r"What (?:is|are all) the special magic \w+ for (.*?) mentioned in")
LENGTH = 3000


def example(name: str, count=None, length: int = LENGTH):
    kind = TASKS.load(name)
    options = {"count": count} if count else {}
    return kind(kind.Config(length=length), material=made_prose(), **options)


@pytest.mark.parametrize("name", NAMES)
def test_text_search_finds_every_value(name):
    task = example(name)
    for question in task.examples(UNSEEN, 25):
        told: dict[str, list[str]] = {}
        for _, key, value in NEEDLE.findall(question.prompt):
            told.setdefault(key, []).append(value)
        (asked,) = ASKED.findall(question.prompt)
        keys = re.split(r", (?:and )?", asked)
        assert len(keys) == task.queries and all(len(told[key]) == task.values for key in keys)
        assert sorted(v for key in keys for v in told[key]) == sorted(question.answers)
        if task.haystack != "needles":
            assert sum(map(len, told.values())) == task.keys * task.values
        else:
            assert len(told) > 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [None, lambda text: len(re.findall(r"\w+|\W", text))])
def test_text_length(name, count):
    """Prompt and room for the answer fill the length up to one sentence or line."""
    length = LENGTH if count is None else LENGTH // 3
    task = example(name, count, length)
    longest = 110
    for question in task.examples(3, 10):
        size = task.count(question.prompt) + task.config.answer_room
        assert length - longest < size <= length


def test_singular_and_plural_wording():
    one = example("niah-1").prompt("TEXT", ["a-b"])
    assert one == (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards.\nTEXT\nWhat is the special magic number for "
        "a-b mentioned in the provided text? The special magic number for a-b mentioned in the "
        "provided text is"
    )
    many = example("niah-multi-query").prompt("TEXT", ["a-b", "c-d", "e-f"])
    assert many.startswith("Some special magic numbers are hidden within the following text.")
    assert many.endswith(
        "\nTEXT\nWhat are all the special magic numbers for a-b, c-d, and e-f mentioned in the "
        "provided text? The special magic numbers for a-b, c-d, and e-f mentioned in the provided "
        "text are"
    )
    uuid = example("niah-3")
    assert "A special magic uuid is hidden" in uuid.prompt("TEXT", ["a-b"])
    assert uuid.needle("k", "v") == "One of the special magic uuids for k is: v."


def test_needles_cover_all_depths():
    task, depths = example("niah-2", length=6000), []
    for question in task.examples(0, 200):
        depths.append(NEEDLE.search(question.prompt).start() / len(question.prompt))
    counts = [sum(quarter <= 4 * depth < quarter + 1 for depth in depths) for quarter in range(4)]
    # of 200 a quarter each, within four standard errors
    assert all(abs(count - 50) < 25 for count in counts), counts


def test_each_value_counts():
    task = example("niah-multi-query")
    (question,) = task.examples(0, 1)
    half = " and ".join(question.answers[:2])
    assert task.scores([half, "nothing"], [question] * 2) == [0.5, 0]


def test_training_and_measuring_read_different_prose():
    corpus = made_prose()
    task = Niah2(Niah2.Config(length=2000), material=corpus)
    for seed, mine, others in (
        (0, corpus.documents, corpus.held_out),
        (UNSEEN, corpus.held_out, corpus.documents),
    ):
        (question,) = task.examples(seed, 1)
        context = NEEDLE.sub("", question.prompt.split("\n")[1])
        found = [part + "." for part in context.split(". ")[1:-1]]
        mine, others = " ".join(mine), " ".join(others)
        assert len(found) > 20
        assert all(sentence.strip() in mine for sentence in found)
        assert sum(sentence.strip() in others for sentence in found) < 3


def test_too_short_length_is_refused():
    with pytest.raises(UserError, match="too short"):
        MultiQuery(MultiQuery.Config(length=600), material=made_prose()).examples(0, 1)
    with pytest.raises(UserError, match="answer_room"):
        Niah1.Config(length=100)


def test_prompts_match_lm_eval():
    """RULER as lm-eval has it: the three variants that need no download."""
    pytest.importorskip("wonderwords")
    pytest.importorskip("lm_eval")
    pytest.importorskip("nltk")
    from lm_eval.tasks.ruler import niah_utils, prepare_niah

    class Bytes:
        def __call__(self, text: str):
            return type("Ids", (), {"input_ids": list(text.encode())})

    variants = {
        "niah-1": ("repeat", "words", "numbers"),
        "niah-multi-key-lines": ("needle", "words", "numbers"),
        "niah-multi-key-uuids": ("needle", "uuids", "uuids"),
    }
    for name, (haystack, keys, values) in variants.items():
        theirs = prepare_niah.generate_samples(
            prepare_niah.get_haystack(haystack),
            Bytes(),
            max_seq_length=4096,
            type_haystack=haystack,
            type_needle_k=keys,
            type_needle_v=values,
            template=niah_utils.TEMPLATE,
            num_samples=5,
        )
        task = example(name, length=4096)
        ours = task.examples(0, 5)
        for sample, question in zip(theirs, ours, strict=True):
            told = sample["input"] + " " + sample["gen_prefix"]
            context = told.partition("\n")[2].rpartition("\nWhat is")[0]
            (asked,) = ASKED.findall(told)
            assert told == task.prompt(context, [asked])
            other = question.prompt.partition("\n")[2].rpartition("\nWhat is")[0]
            for lines in (context.split("\n"), other.split("\n")):
                needles = [
                    line for line in lines if NEEDLE.fullmatch(line + "\n", 0, len(line) + 1)
                ]
                rest = {line for line in lines if not line.startswith("One of")}
                noise = haystack == "repeat"
                assert len(rest) == noise and rest <= {prepare_niah.get_haystack("repeat")}
                assert (len(lines) - len(needles) > 5) if noise else len(rest) == 0
            assert len(sample["outputs"]) == len(question.answers) == 1
            assert len(told) + 128 <= 4096 + len(sample["gen_prefix"]) + 1
