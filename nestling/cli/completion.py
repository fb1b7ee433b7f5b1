"""nestling completion: print a completion script for a shell."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Print a script that completes commands and options; your shell has to load it.

    For bash: nestling completion bash > ~/.local/share/bash-completion/completions/nestling.
    For zsh: the same into a file _nestling in a folder of $fpath.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell that will load the script."""

    def run(self) -> None:
        """Print the script, generated from the options of every verb that can be loaded."""
        try:
            # tyro prints it and ends the program
            tyro.cli(every_verb(), prog="nestling", args=["--tyro-print-completion", self.shell])
        except SystemExit as end:
            if end.code not in (0, None):
                raise UserError(f"no completion for {self.shell}: {end}") from end


def every_verb() -> Any:
    """One type for the whole command line: the commands of all verbs, as tyro reads them."""
    from nestling.cli.main import VERBS, added_verbs, module_of

    kinds = []
    for verb in [*VERBS, *sorted(added_verbs())]:
        try:
            module = module_of(verb)
        except UserError:
            continue  # a broken verb of another package: calling it reports the error
        about = VERBS.get(verb, "")
        named = tyro.conf.subcommand(verb, description=about, prefix_name=False)
        kinds.append(Annotated[module.Command, named])
    return Union[tuple(kinds)]  # noqa: UP007  made of a list
