"""The demonstration on a small text with small models: what it leaves, and what it refuses."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from nestling.cli.main import main
from nestling.core.result import Result
from nestling.data import prepare
from nestling.demo import contenders, make_demo
from nestling.demo.contenders import CONTENDERS, enter, train_contender
from nestling.demo.resume import follow, follow_elsewhere
from nestling.demo.run import passage_of, take_folder
from nestling.models.decode import read
from nestling.models.folder import load_model

STEPS = 4
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_heads": 2,
    "intermediate_size": 32,
    "batch_size": 2,
    "sequence_length": 64,
}


def arguments(out, corpus, *more):
    """The command line of a small demonstration."""
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    head = ["demo", "--out", str(out), "--corpus", str(corpus), "--vocab-size", "400", "--quiet"]
    return [*head, *sets, *more]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of numbered words; one of the held-out ones is longer than the passage."""
    folder = tmp_path_factory.mktemp("text") / "pages"
    folder.mkdir()
    for number in range(40):
        words = " ".join(f"word{number * 500 + place}" for place in range(10 + 5 * number))
        (folder / f"{number:02}.txt").write_text(f"Page {number}\n\n{words}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of their own for the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NESTLING_DATA", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(corpus, cache):
    return prepare(str(corpus), vocab_size=400)


@pytest.fixture(scope="module")
def shown(corpus, cache, tmp_path_factory):
    """The folder that a demonstration has left."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(arguments(out, corpus, "--steps", str(STEPS))) == 0
    return out


@pytest.fixture
def result(shown):
    return Result.read(shown / "report.json")


def test_the_result_has_the_figures_of_all_three(result):
    models = result.metrics["models"]
    assert list(models) == sorted(CONTENDERS)
    assert len({own["tokens"] for own in models.values()}) == 1
    for own in models.values():
        assert len(own["losses"]) == STEPS and own["tokens_per_second"] > 0
        assert own["val_perplexity"] == pytest.approx(math.exp(own["val_loss"]))
        assert own["losses"][-1] < own["losses"][0]
        assert own["val_by_position"][0]["start"] == 0
    assert len({own["val_tokens"] for own in models.values()}) == 1
    assert models["hope"]["val_loss"] != models["hope-frozen"]["val_loss"]
    assert result.corpus.partition("@")[2] and result.provenance["threads"]


def test_a_new_process_goes_on_to_the_bit(result):
    memory = result.metrics["memory"]
    assert memory["same_tokens"] and memory["max_logit_difference"] == 0
    assert memory["without_memory"] > 1e-4, "the memory says nothing: the check could not fail"


def test_the_page_stands_alone(shown, result):
    page = (shown / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page), "points to another file"
    assert page.count("<svg") == 4 and "<script" not in page
    for contender in CONTENDERS.values():
        assert page.count(contender.title) >= 3
    assert "one seed and a short run" in page and "demo-gap" in page
    sample = result.metrics["sample"]["prompt"].split()[0]
    for part in (
        result.corpus,
        sample,
        "level 1",
        "cms.0",
        "largest difference of a logit",
        "1,024 tokens",
    ):
        assert part in page


def test_what_it_leaves_can_be_used_and_written_over(shown, corpus, capsys):
    assert {path.name for path in shown.iterdir()} == {
        "hope", "memory.safetensors", "report.html", "report.json",
    }  # fmt: skip
    memory = shown / "memory.safetensors"
    generate = ["generate", "--model", str(shown / "hope"), "--load-memory", str(memory)]
    assert main([*generate, "--prompt", "word", "--tokens", "3"]) == 0
    file = shown.parent / "elsewhere.json"
    assert main(arguments(shown, corpus, "--steps", "1", "--json", str(file))) == 0
    told = capsys.readouterr().out
    assert str(shown / "report.html") in told and "largest logit difference 0" in told
    assert json.loads(file.read_text())["metrics"]["models"]["hope"]["steps"] == 1


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "0"], "at least 1"),
        (["--corpus", "stdlb"], "did you mean 'stdlib'"),
        (["--set", "writes=false"], "unknown option 'writes'"),
        (["--set", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--set", "seed=1"], "--seed"),
        (["--set", "sequence_length=70"], "multiple of the memory period"),
        (["--vocab-size", "20"], "258 or more"),
        (["--device", "gpu"], "device"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, corpus, capsys, more, said):
    out = tmp_path / "out"
    assert said in refused(capsys, *arguments(out, corpus, *more))
    assert not out.exists()


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path, corpus, capsys):
    file = tmp_path / "precious"
    file.write_text("text")
    assert "holds precious" in refused(capsys, *arguments(tmp_path, corpus))
    assert "is a file" in refused(capsys, *arguments(file, corpus))
    assert "Not a directory" in refused(capsys, *arguments(file / "below", corpus))
    assert file.read_text() == "text" and len(list(tmp_path.iterdir())) == 1
    take_folder(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_the_models_read_the_same_and_differ_in_writes_only(text):
    demo = make_demo(SMALL)
    entries = enter(text, demo.model, demo.train, "cpu")
    streams = [[next(entry.loader) for _ in range(3)] for entry in entries.values()]
    for batches in zip(*streams, strict=True):
        for one in batches[1:]:
            assert all(torch.equal(a, b) for a, b in zip(batches[0], one, strict=True))
    hope, frozen = (entries[name].model for name in ("hope", "hope-frozen"))
    frozen_weights = frozen.state_dict()
    for name, weight in hope.state_dict().items():
        assert torch.equal(weight, frozen_weights[name]), name
    ids = torch.randint(0, 100, (1, 80), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(hope(ids).logits, frozen(ids).logits)


def test_the_models_are_of_equal_size(text):
    demo = make_demo({})
    sizes = {n: e.model.num_parameters() for n, e in enter(text, {}, demo.train, "cpu").items()}
    assert sizes["hope"] == sizes["hope-frozen"]
    assert abs(sizes["hope"] / sizes["transformer"] - 1) < 0.01


def test_ctrl_c_ends_the_program(text, monkeypatch):
    demo = make_demo(SMALL)
    entry = enter(text, demo.model, demo.train, "cpu")["transformer"]
    monkeypatch.setattr(contenders, "train", lambda *a, **k: {"interrupted": True})
    with pytest.raises(KeyboardInterrupt):
        train_contender(entry, text, demo.train, quiet=True)


def test_the_new_process_answers_for_the_memory_it_is_given(shown, text, tmp_path):
    """Another memory gives other logits, and a folder without a model is a fault."""
    model, _ = load_model(shown / "hope")
    passage = passage_of(text.held_out)
    _, cache = read(model, passage[None])
    _, other = read(model, passage.flip(0)[None])
    file = other.save(tmp_path / "other")
    here = follow(model, cache, token := int(passage[-1]), 2)
    there = follow_elsewhere(shown / "hope", file, token, 2, "cpu")
    assert not torch.equal(here.logits, there.logits)
    assert torch.equal(follow(model, other, token, 2).logits, there.logits)
    with pytest.raises(RuntimeError, match="holds no model"):
        follow_elsewhere(tmp_path, file, token, 2, "cpu")


def test_a_passage_is_the_start_of_the_first_long_document_or_the_longest(text):
    lengths = text.held_out.lengths()
    first = passage_of(text.held_out, 5)
    assert first.tolist() == text.held_out.ids[:5].tolist()
    longest = passage_of(text.held_out, 10**6)
    assert len(longest) == max(lengths) and text.tokenizer.eos_token_id not in longest[1:]
