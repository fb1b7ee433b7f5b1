"""Every Python block in the documentation runs: here those that need files."""

import random
import re
import socket
from pathlib import Path

from small_student import student

from nestling.cli.main import main
from nestling.models.pretrained import Base, parse_levels, save_stacked, studied_level
from nestling.train.log import Log
from nestling.train.loop import LOG

DOCS = Path(__file__).resolve().parents[1] / "docs"
# page -> the tests that run its blocks
RUN = {
    "adding": "tests/test_adding.py",
    "continual": "tests/test_examples.py",
    "examples": "tests/test_examples.py",
    "models": "tests/test_docs.py",
    "optimizers": "tests/test_examples.py",
    "scale": "tests/test_examples.py",
    "serve": "tests/serve/test_examples.py",
}
TEXT = "Lelidis Zikipot keeps a goat at home. Lelidis Zikipot was born in Padua.\n"


def blocks(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(page):
    for code in blocks(page):
        exec(code, {})


def test_every_page_with_python_is_run_by_a_test():
    pages = {page.stem for page in DOCS.glob("*.md") if blocks(page.stem)}
    assert pages == set(RUN)
    for page, test in RUN.items():
        source = (DOCS.parent / test).read_text(encoding="utf-8")
        assert f"{page}.md" in source or f'"{page}"' in source


def test_example_keeps_learning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = student()
    base = Base(model, tokenizer, "llama", "float32")
    save_stacked(base, [studied_level(4, (2, 3))], "low-rank", Path("runs/smollm"))
    save_stacked(base, parse_levels("64,512"), "partition", Path("runs/levels"))
    for name in ("manual.txt", "notes.txt"):
        Path(name).write_text(TEXT)
    run("continual")
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert Path("runs/python.memory").exists()


def test_example_with_other_libraries(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs/hope").mkdir(parents=True)
    log = Log(Path("runs/hope") / LOG)
    for step in (1, 2):
        log.write(step=step, loss=5.5 / step)
    run("examples")
    told = capsys.readouterr().out
    assert "torch.Size([1, 54])" in told and re.search(r"loss \d+\.\d\d\n", told)
    assert "2 steps, the last with a loss of 2.75" in told
    assert Path("runs/adapted.memory").exists()


def test_optimizers(capsys):
    run("optimizers")


def test_large_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(40):
        words = " ".join("".join(rng.sample("abcdefghijklm", 5)) for _ in range(200))
        (folder / f"{number}.txt").write_text(f"{words}\n")
    assert main(["data", "prepare", str(folder), "--out", "runs/tokens"]) == 0
    with socket.socket() as free:  # torchrun's variables for a single process
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    run("scale")
    assert re.search(r"tokens, .* s\nRssAnon", capsys.readouterr().out)
