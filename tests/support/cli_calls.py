"""A command of `nestling` called in this process."""

from nestling.cli.main import main


def run(capsys, *arguments) -> str:
    """What a command prints that ends well."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def failed(capsys, *arguments) -> str:
    """The one line of a command that is refused."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed
