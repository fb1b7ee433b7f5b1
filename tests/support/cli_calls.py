"""Call a command of `nestling` in this process."""

from nestling.cli.main import main


def run(capsys, *arguments) -> str:
    """The output of a successful command."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def failed(capsys, *arguments) -> str:
    """The error line of a failing command."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed
