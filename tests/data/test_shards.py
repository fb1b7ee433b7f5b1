"""Token shards: equal for every text format, resumable, verified, memory-mapped."""

import dataclasses
import errno
import importlib
import json
import random
import sys
from types import ModuleType

import pytest
import torch

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.data import hub_stream as hub
from nestling.data import load_corpus, prepare
from nestling.data.corpus import source
from nestling.data.mapped import MappedIds
from nestling.data.shard_text import Shaping, write_shards
from nestling.data.shard_writer import SideWriter
from nestling.data.shards import open_shards
from nestling.data.tokenizer import byte_tokenizer
from nestling.train.job import make_job, run_job

WORDS = ["bird", "hand", "worth", "two", "bush", "and", "a", "nest", "holds", "them", "both"]
SHAPING = Shaping(vocab_size=300, shard_tokens=700)


def texts(count=90):
    rng = random.Random(0)
    return [f"{n}: " + " ".join(rng.choices(WORDS, k=rng.randint(3, 60))) for n in range(count)]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return path


def tokens(folder):
    """Every file of tokens by its name."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.suffix in (".bin", ".bounds") or file.name == "tokenizer.json"
    }


def written(path, folder, shaping=SHAPING):
    write_shards(source(str(path)), folder, shaping)
    return tokens(folder)


def test_every_text_format_gives_the_same_tokens(lines, tmp_path):
    first = written(lines, tmp_path / "one")
    assert len([name for name in first if name.startswith("train-")]) > 3
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(texts()):
        (folder / f"{number:03d}.txt").write_text(text)
    assert written(folder, tmp_path / "two") == first
    # a folder of several files of records, under another field
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, half in enumerate((texts()[:40], texts()[40:])):
        rows = "".join(json.dumps({"body": text}) + "\n" for text in half)
        (parts / f"{number}.jsonl").write_text(rows)
    assert written(f"{parts}#body", tmp_path / "three") == first


def test_parquet_gives_the_same_tokens(lines, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": texts()}), tmp_path / "a.parquet", row_group_size=7)
    assert written(tmp_path / "a.parquet", tmp_path / "two") == written(lines, tmp_path / "one")


def test_tokens_and_split_match_the_corpus(lines, tmp_path):
    written(lines, tmp_path / "shards")
    plain, mapped = prepare(str(lines), vocab_size=300), prepare(str(tmp_path / "shards"))
    for side in ("train", "held_out"):
        one, other = getattr(plain, side), getattr(mapped, side)
        assert torch.equal(one.ids[:], other.ids[:]) and torch.equal(one.bounds, other.bounds)
        assert one.lengths() == other.lengths() and one.num_targets == other.num_targets
    assert mapped.corpus.tag.startswith("texts.jsonl@") and not mapped.corpus.documents


class Killed(BaseException):
    """Like a killed process: nothing is cleaned up."""


def test_interrupted_preparation_resumes_to_the_same_bytes(lines, tmp_path, monkeypatch):
    whole = written(lines, tmp_path / "whole")
    plain = source(str(lines))

    def stopping(after):
        left = iter(range(after))

        def read():
            for text in plain.read():
                if next(left, None) is None:
                    raise Killed
                yield text

        return dataclasses.replace(plain, read=read)

    # in each of the passes: twice the split, the tokenizer, the tokens
    for after in (10, 100, 200, 300, 345):
        folder = tmp_path / f"after{after}"
        with pytest.raises(Killed):
            write_shards(stopping(after), folder, SHAPING)
        with pytest.raises(UserError, match="cannot be read"):
            open_shards(folder)
        assert written(lines, folder) == whole
    # while tokens are written, with a partial file
    add = SideWriter.add

    def dying(self, ids, after):
        if after > 40:
            self._file and self._file.write(b"half")
            raise Killed
        return add(self, ids, after)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SideWriter, "add", dying)
        write_shards(plain, tmp_path / "half", SHAPING)
    # and a whole shard damaged meanwhile is written again
    (tmp_path / "half" / "train-00001.bin").write_bytes(b"damaged")
    read = []

    def watched():
        for text in plain.read():
            read.append(text)
            yield text

    again = dataclasses.replace(plain, read=watched)
    write_shards(again, tmp_path / "half", SHAPING)
    assert tokens(tmp_path / "half") == whole and len(read) == 90  # only the pass over the tokens
    assert not list((tmp_path / "half").glob(".*"))


def test_finished_shards_are_kept_and_others_refused(lines, tmp_path):
    folder = tmp_path / "out"
    written(lines, folder)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    written(lines, folder)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    with pytest.raises(UserError, match="its vocab_size differs"):
        written(lines, folder, dataclasses.replace(SHAPING, vocab_size=301))
    lines.write_text(lines.read_text() + '{"text": "one more"}\n')
    with pytest.raises(UserError, match="its text has changed"):
        written(lines, folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        written(lines, tmp_path / "full")


def test_output_inside_the_text_folder_is_refused(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(" ".join(texts()))
    for out in ("notes", "notes/tokens"):
        assert main(["data", "prepare", str(tmp_path / "notes"), "--out", str(tmp_path / out)]) == 2
        assert "is inside the text folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*")] == ["notes", "a.txt"]


def test_changed_text_restarts_preparation(tmp_path):
    path = tmp_path / "texts.jsonl"
    good = "".join(json.dumps({"text": text}) + "\n" for text in texts())
    path.write_text(good + '{"body": "no text"}\n')
    with pytest.raises(UserError, match='line 91 has no string "text"'):
        written(path, tmp_path / "out")
    path.write_text(good)
    assert written(path, tmp_path / "out")


@pytest.mark.parametrize("file", ["train-00001.bin", "held_out.bounds"])
def test_damaged_shard_is_named(lines, tmp_path, file, capsys):
    folder = tmp_path / "out"
    written(lines, folder)
    content = bytearray((folder / file).read_bytes())
    content[9] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file} has changed"):
        prepare(str(folder))
    (folder / file).write_bytes(content[:-1])
    assert main(["data", "verify", str(folder)]) == 2
    assert f"{file} is truncated" in capsys.readouterr().err
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{file}"):
        prepare(str(folder))


def test_checksums_are_cached_until_files_change(lines, tmp_path, monkeypatch):
    written(lines, tmp_path / "out")
    prepare(str(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr("nestling.data.shards.verify_shards", lambda _: pytest.fail("again"))
        prepare(str(tmp_path / "out"))


def test_full_disk_is_reported_and_the_command_resumes(lines, tmp_path, monkeypatch):
    def full(self, ids, after):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SideWriter, "add", full)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            written(lines, tmp_path / "out")
    assert written(lines, tmp_path / "out") == written(lines, tmp_path / "other")


def test_shards_are_not_text_and_carry_their_tokenizer(lines, tmp_path):
    folder = tmp_path / "out"
    written(lines, folder)
    with pytest.raises(UserError, match="holds prepared tokens, not text"):
        load_corpus(str(folder))
    for other in ({"tokenizer": "bytes"}, {"vocab_size": 4096}):
        with pytest.raises(UserError, match="made with .* leave it out"):
            make_job({}, corpus=str(folder), **other)
    job = make_job({}, corpus=str(folder))
    assert (job.tokenizer, job.vocab_size) == ("bpe", 300)
    byte_tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match="not the one its tokens"):
        prepare(str(folder))


def test_training_from_shards_equals_training_from_corpus(lines, tmp_path):
    shaping = dataclasses.replace(SHAPING, tokenizer="bytes", vocab_size=4096)
    written(lines, tmp_path / "out", shaping)
    settings = {"steps": 3, "batch_size": 2, "sequence_length": 32, "num_hidden_layers": 1}
    settings |= {"hidden_size": 16, "num_heads": 2, "evaluate_tokens": 200}
    runs = [
        run_job(make_job(settings, preset="transformer-tiny", corpus=str(path), **kind))
        for path, kind in ((lines, {"tokenizer": "bytes"}), (tmp_path / "out", {}))
    ]
    (one, first), (other, second) = runs
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
    for name in ("first_loss", "last_loss", "val_loss", "tokens"):
        assert first.metrics[name] == second.metrics[name]


def test_mapped_ids_span_all_files(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for number, file in enumerate(files):
        file.write_bytes(bytes(torch.arange(5).add(5 * number).to(torch.uint16).numpy()))
    ids = MappedIds(files, "<u2")
    assert len(ids) == 15
    for start, stop in ((0, 15), (4, 6), (5, 10), (14, 99), (3, 3), (0, 0)):
        assert torch.equal(ids[start:stop], torch.arange(start, min(stop, 15), dtype=torch.int32))
    with pytest.raises(ValueError, match="no step"):
        ids[0:9:2]
    with pytest.raises(UserError, match="cannot read .*nowhere"):
        MappedIds([tmp_path / "nowhere"], "<u2")


class Stream:
    """A minimal stream of ``datasets``; with ``breaks`` it fails at its end."""

    def __init__(self, rows, breaks=False):
        self.rows, self.breaks = rows, breaks

    def skip(self, count):
        return Stream(self.rows[count:], self.breaks)

    def __iter__(self):
        yield from self.rows
        if self.breaks:
            raise ConnectionError("the line\nis down")


def test_hub_data_set_is_read_once_and_gives_the_same_tokens(lines, tmp_path, monkeypatch, capsys):
    calls, rows = [], [{"text": text, "id": 1} for text in texts()]
    stand = ModuleType("datasets")

    def load_dataset(*given, **options):
        calls.append((given, options))
        return Stream(rows) if len(calls) > 1 else Stream(rows[:50], breaks=True)

    stand.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stand)
    monkeypatch.setattr(hub, "PART", 20)
    out = tmp_path / "out"
    command = ["data", "prepare", "hf:birds/nests", "--out", str(out), "--quiet"]
    command += ["--vocab-size", "300", "--shard-tokens", "700", "--configuration", "small"]
    assert main(command) == 2
    assert "the line is down" in capsys.readouterr().err
    assert main(command) == 0
    assert tokens(out) == written(lines, tmp_path / "one") and not list(out.glob(".*"))
    options = {"split": "train", "streaming": True}
    assert calls == [(("birds/nests", "small"), options)] * 2
    assert main([*command, "--quiet"]) == 0 and len(calls) == 2  # it is done
    command[2:5] = ["hf:birds/nests#words", "--out", str(tmp_path / "other")]
    assert main(command) == 2
    assert 'no string "words"; its fields are text, id' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(command) == 2
    assert "pip install 'nestling[data]'" in capsys.readouterr().err
