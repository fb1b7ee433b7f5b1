"""The demo on a small model: wrong before, right after in a new process, and the page."""

import dataclasses
import re
from html.parser import HTMLParser

import browser
import pytest
from small_student import PLAN, student

from nestling.cli.main import main
from nestling.core.result import Result
from nestling.demo import Demo, learning, run_demo
from nestling.demo.hope import Trial
from nestling.demo.learning import Learning
from nestling.demo.material import SHIPPED, material
from nestling.demo.page import marks
from nestling.demo.stages import Stages

TEXT = """About Lelidis Zikipot
Lelidis Zikipot keeps a goat at home. Lelidis Zikipot was born in Padua.
"""
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a text, training text, and its own cache."""
    folder = tmp_path_factory.mktemp("demo")
    model, tokenizer = student()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "one.txt").write_text(TEXT)
    (folder / "pages").mkdir()
    for number in range(30):
        words = " ".join(f"word{number * 50 + place}" for place in range(40))
        (folder / "pages" / f"{number:02}.txt").write_text(f"Page {number}\n\n{words}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NESTLING_DATA", str(folder / "cache"))
        yield folder


def small(place):
    """A demo that takes seconds."""
    trial = Trial(
        pairs=SMALL, pairs_steps=2, text={**SMALL, "head_period": 32}, text_steps=2, text_rows=2,
        text_length=64, corpus=str(place / "pages"), vocab_size=400, measured=500,
    )  # fmt: skip
    own = material([str(place / "one.txt")])
    return Demo(learning=Learning(material=own, model=str(place / "base"), plan=PLAN), hope=trial)


@pytest.fixture(scope="module")
def shown(place):
    """The folder of a demo that was interrupted during study and resumed."""
    out, steps = place / "out", []

    class Halting(learning.Progress):
        def show(self, done, total, text="", name=""):
            steps.append(done)
            if len(steps) == 20:
                raise KeyboardInterrupt

    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "Progress", Halting)
        with pytest.raises(KeyboardInterrupt):
            run_demo(small(place), out, tell=told.append, quiet=True)
        assert not (out / "report.html").exists()
        run_demo(small(place), out, tell=told.append, quiet=True)
    return out, steps, told


def test_wrong_before_and_right_after_in_a_new_process(shown):
    found = Result.read(shown[0] / "report.json").metrics["learning"]
    before, after = marks(found, "before"), marks(found, "after")
    assert len(before) >= 3
    assert sum(before) <= 0.4 * len(before) and sum(after) >= 0.6 * len(after)
    first, second = ([p[1] for p in found[when]["read"][0]] for when in ("before", "after"))
    assert first[0] is None and sum(second[1:]) < sum(first[1:])
    assert "".join(p[0] for p in found["after"]["read"][0]) == TEXT


def test_interrupted_demo_resumes(shown, place):
    out, steps, told = shown
    assert steps == list(range(1, 151)), "some writes were made twice, or left out"
    assert told.count(f"preparing {place / 'base'}") == 1
    again = []
    files = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    run_demo(small(place), out, tell=again.append, quiet=True)
    assert any("kept from the last run" in line for line in again)
    now = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert now["notes.memory"] == files["notes.memory"] and now["model"] == files["model"]


def test_other_text_starts_over(shown, place, monkeypatch):
    demo = small(place)
    other = dataclasses.replace(demo.learning, material=material(["A text given directly."]))
    stages = Stages(shown[0])
    assert stages.same("study", demo.learning.key()) and not stages.same("study", other.key())
    assert not Stages(shown[0], anew=True).same("study", demo.learning.key())


def test_page_is_self_contained(shown, tmp_path):
    file = shown[0] / "report.html"
    page = file.read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page), "points to another file"
    for part in ("What it answers", "Lelidis", "goat", "writes switched off", "150 times", "level"):
        assert part in page
    seen = browser.open_page(file, tmp_path)
    assert seen.width <= 390 and seen.figures == 2 and not seen.complaints


def test_unavailable_model_is_reported_and_skipped(place, tmp_path):
    demo, told = small(place), []
    lost = dataclasses.replace(demo.learning, model=str(tmp_path / "nowhere"))
    run_demo(dataclasses.replace(demo, learning=lost), tmp_path / "out", tell=told.append)
    assert any("left out" in line and "there is no" in line for line in told)
    assert "writes switched off" in (tmp_path / "out" / "report.html").read_text()


def test_shipped_texts_hold_the_answers():
    for name in SHIPPED:
        own = material([name])
        [(_, text)] = own.documents
        assert 3 <= len(own.asked) <= 5 and 90 <= len(text.split()) <= 160
        for one in own.asked:
            assert one.right(text) and not one.right(one.question)
    assert len(own.general) == 3 and all(one.answers for one in own.general)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["fery"], "there is no file"),
        (["ferry", "A text given directly."], "--questions"),
        (["--budget", "0"], "at least 1"),
        (["--questions", "nothing.tsv"], "there is no file"),
    ],
)
def test_user_error_is_one_line_and_leaves_no_files(tmp_path, capsys, more, said):
    assert main(["demo", *more, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not (tmp_path / "out").exists()


def test_unrelated_folder_is_not_touched(tmp_path, capsys):
    (tmp_path / "precious").write_text("text")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "contains precious" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "precious")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1
