"""Checks that the options of memories, rules and optimizers share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nestling.core.error import UserError


def refuse_unread(owner: str, config: Any, unread: Mapping[str, str]) -> None:
    """Raise UserError if an option that others leave without effect was set all the same.

    ``config`` is a dataclass whose fields have defaults, ``unread`` says of options what leaves
    each without effect.
    """
    for field in dataclasses.fields(config):
        if field.name in unread and getattr(config, field.name) != field.default:
            raise UserError(
                f"{owner}.{field.name} has no effect with {unread[field.name]}: leave it out"
            )
