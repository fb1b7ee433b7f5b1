"""nestling list shows the entries of the tables."""

import json
import subprocess
import sys

import pytest

from nestling.cli import list as listing
from nestling.cli.main import main
from nestling.data import CORPORA
from nestling.memories import MEMORIES
from nestling.models import preset_names
from nestling.optim.build import optimizer_names
from nestling.tasks import TASKS

NAMES = {
    "presets": preset_names(),
    "memories": MEMORIES.names(),
    "corpora": CORPORA.names(),
    "tasks": TASKS.names(),
    "optimizers": optimizer_names(),
}


def named(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line and not line.startswith("-")]


def test_every_name_is_listed_with_a_summary(capsys):
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert named(told) == [word for kind, names in NAMES.items() for word in (kind, *names)]
    for line in told.splitlines():
        assert not line or line in NAMES or len(line.split(maxsplit=1)[1]) > 10


@pytest.mark.parametrize("kind", NAMES)
def test_one_kind_only(kind, capsys):
    assert main(["list", kind]) == 0
    assert named(capsys.readouterr().out) == [kind, *NAMES[kind]]


def test_unknown_kind_is_one_line(capsys):
    assert main(["list", "preset"]) == 2
    assert "did you mean 'presets'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", NAMES)
def test_stored_listing_is_up_to_date(kind):
    assert listing.read_kept().get(kind) == listing.made(kind), "run python -m nestling.cli.list"


def test_listing_imports_no_entries():
    code = (
        "import sys; from nestling.cli.main import main; assert main(['list']) == 0;"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "hope-tiny" in done.stdout, done.stderr


def test_new_entry_is_listed_before_the_file_is_rebuilt(monkeypatch, tmp_path, capsys):
    record = json.loads(listing.KEPT.read_text()) | {"sha256": "of another table"}
    (tmp_path / "listed.json").write_text(json.dumps(record))
    monkeypatch.setattr(listing, "digest", lambda: "of this one")
    monkeypatch.setattr(listing, "KEPT", tmp_path / "listed.json")
    monkeypatch.setitem(listing.KINDS, "presets", lambda: [("mine", "a new one")])
    assert main(["list", "presets"]) == 0
    assert "a new one" in capsys.readouterr().out
