"""The program: exit codes, one-line errors, and imports of one verb only."""

import errno
import io
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from nestling.cli import main as program
from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Say:
    """Say something."""

    preset: tyro.conf.Positional[str]
    steps: int = 200
    out: Path | None = None

    def run(self) -> None:
        ERRORS.get(self.preset, lambda: print(self.preset, self.steps))()


@dataclass(frozen=True, kw_only=True)
class Other:
    """Say something else."""

    def run(self) -> None:
        print("other")


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


ERRORS = {
    "user": raising(UserError("no such thing;\n try another")),
    "full": raising(OSError(errno.ENOSPC, "No space left on device", "x.json")),
    "stop": raising(KeyboardInterrupt()),
    "bug": raising(ZeroDivisionError()),
    "odd": raising(OSError(errno.EIO, "Input/output error")),
}


@pytest.fixture(autouse=True)
def verb(monkeypatch):
    """A verb `say`, so that tests need no real verb."""
    module = types.ModuleType("nestling.cli.say")
    module.Command = Say
    both = types.ModuleType("nestling.cli.both")
    both.Command = (
        Annotated[Say, tyro.conf.subcommand("say")]
        | Annotated[Other, tyro.conf.subcommand("other")]
    )
    monkeypatch.setitem(sys.modules, "nestling.cli.say", module)
    monkeypatch.setitem(sys.modules, "nestling.cli.both", both)
    monkeypatch.setitem(program.VERBS, "say", "say something")
    monkeypatch.setitem(program.VERBS, "both", "say one of two things")


def test_a_verb_runs(capsys):
    assert program.main(["say", "hello", "--steps", "3"]) == 0
    assert capsys.readouterr().out == "hello 3\n"
    assert program.main(["both", "other"]) == 0
    assert capsys.readouterr().out == "other\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["say", "x", "--stpes", "3"], "did you mean --steps?"),
        (["say", "x", "--steps", "many"], "'many'"),
        (["say"], "Missing"),
        (["say", "x", "y"], "Unrecognized options: y"),
        (["both", "nobody"], "nobody"),
        (["both"], "both"),
        (["say", "user"], "no such thing; try another"),
        (["say", "full"], "cannot write x.json: No space left on device"),
    ],
)
def test_user_error_is_one_line_with_exit_code_2(arguments, message, capsys):
    assert program.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err


def test_allocator_keeps_freed_memory_except_for_serve(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(program, "keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setitem(program.VERBS, "serve", "say something")
    monkeypatch.setitem(sys.modules, "nestling.cli.serve", sys.modules["nestling.cli.say"])
    for name in ("serve", "say"):
        assert program.main([name, "hello"]) == 0
    assert calls == ["kept"] and set(program.LONG_RUNNING) <= set(program.VERBS)


def test_ctrl_c_exits_with_130(capsys):
    assert program.main(["say", "stop"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("name", ["bug", "odd"])
def test_internal_errors_propagate(name):
    with pytest.raises((ZeroDivisionError, OSError)):
        program.main(["say", name])


def test_help_and_version_exit_0(capsys):
    for arguments in ([], ["--help"], ["say", "--help"], ["--version"]):
        assert program.main(arguments) == 0
        assert capsys.readouterr().out


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from nestling.cli.main import main; main(['--help']);"
        "sys.exit(sorted({'torch', 'transformers'} & set(sys.modules)).__len__())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stdout


def test_plugin_adds_a_verb_but_cannot_replace_one(monkeypatch, capsys):
    module = types.ModuleType("plugin", "nestling greet: say something.")
    module.Command = Say
    monkeypatch.setitem(sys.modules, "plugin", module)
    found = [
        EntryPoint("greet", "plugin", program.GROUP),
        EntryPoint("gone", "no.such.module", program.GROUP),
        EntryPoint("train", "plugin", program.GROUP),
    ]
    monkeypatch.setattr(program, "entry_points", lambda group: found)
    assert program.main(["greet", "hope", "--steps", "3"]) == 0
    assert capsys.readouterr().out == "hope 3\n"
    assert program.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"greet +say something\n.*", told) and "train a language model\n" in told
    assert program.main(["gone"]) == 2
    assert "no.such.module cannot be loaded" in capsys.readouterr().err
    assert program.main(["greeet"]) == 2
    assert "did you mean 'greet'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["study", "bench"])
def test_lab_verb_without_lab_says_what_to_install(monkeypatch, capsys, verb):
    monkeypatch.setattr(program, "entry_points", lambda group: [])
    assert program.main([verb, "list"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install -e . -e lab" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_unencodable_characters_are_escaped(monkeypatch, encoding):
    text = "caf\u00e9 \u2013 \U0001f426"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert program.main(["say", text]) == 0
    assert program.main(["say", "user", "--" + text]) == 2
    for stream in (out, err):
        stream.flush()
        assert shown in stream.buffer.getvalue().decode(encoding)


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are no bytes there")
def test_ascii_locale_accepts_and_prints_any_character():
    """The whole program in a locale without UTF-8."""
    environment = {
        "PYTHONPATH": str(Path(program.__file__).parents[2]),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PATH": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "nestling", "caf\u00e9 \u2013"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"error: unknown command 'caf\\xe9 \\u2013'" in done.stderr, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_every_verb_and_option(shell, capsys):
    assert program.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*program.VERBS, "consolidate", "--memory", "--go-on"):
        assert word in script


def test_bash_completion_script_works(tmp_path, capsys):
    assert program.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    asked = """
    source "$1"; COMP_WORDS=(nestling "$2" "$3"); COMP_CWORD=2
    $(complete -p nestling | sed 's/.*-F \\([^ ]*\\).*/\\1/') nestling "$3" "$2"
    echo "${COMPREPLY[@]}"
    """
    for verb, begun, whole in (("learn", "--mem", "--memory"), ("memory", "cons", "consolidate")):
        call = ["bash", "-c", asked, "bash", str(tmp_path / "script"), verb, begun]
        done = subprocess.run(call, capture_output=True, text=True)
        assert whole in done.stdout.split(), done.stderr
