"""nestling list names what the tables hold."""

import pytest

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


def test_every_name_is_there_with_a_line_about_it(capsys):
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert named(told) == [word for kind, names in NAMES.items() for word in (kind, *names)]
    for line in told.splitlines():
        assert not line or line in NAMES or len(line.split(maxsplit=1)[1]) > 10


@pytest.mark.parametrize("kind", NAMES)
def test_one_kind_alone(kind, capsys):
    assert main(["list", kind]) == 0
    assert named(capsys.readouterr().out) == [kind, *NAMES[kind]]


def test_an_unknown_kind_is_one_line(capsys):
    assert main(["list", "preset"]) == 2
    assert "did you mean 'presets'" in capsys.readouterr().err
