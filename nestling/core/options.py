"""Checks of the options of memories, rules and optimizers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nestling.core.error import UserError


class UnreadOption(UserError):
    """An option was set that has no effect, because of other options; ``option`` is its name."""

    def __init__(self, message: str, option: str):
        super().__init__(message)
        self.option = option


def refuse_unread(owner: str, config: Any, unread: Mapping[str, str]) -> None:
    """Raise UnreadOption if an option was set that has no effect.

    ``config`` is a dataclass whose fields have defaults; ``unread`` maps the names of options
    without effect to the reason.
    """
    for field in dataclasses.fields(config):
        name = field.name
        if name in unread and getattr(config, name) != field.default:
            message = f"{owner}.{name} has no effect with {unread[name]}: leave it out"
            raise UnreadOption(message, name)
