"""The configuration of a language model: a pattern of memory names and their options."""

import dataclasses
import typing
from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from nestling.core.error import UserError, did_you_mean
from nestling.core.options import UnreadOption
from nestling.memories import MEMORIES
from nestling.memories.head import KEYS, check_slots


class HopeConfig(PretrainedConfig):
    """The configuration of a model, as a transformers config (``config.json``).

    The blocks are ``pattern`` repeated ``num_hidden_layers`` times; ``memories`` gives, for each
    name in the pattern, the options of that memory (the fields of its ``Config``).
    """

    model_type = "hope"
    # the constructor takes more than its signature says, which type checkers reject
    __no_type_check__ = True
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_attention_heads": "num_heads"}

    vocab_size: int = 4096  # tokens in the vocabulary
    hidden_size: int = 256  # width of the residual stream
    num_hidden_layers: int = 4  # repeats of the pattern
    num_heads: int = 4  # heads of every memory that has heads
    pattern: list[str] | tuple[str, ...] = ("attention", "mlp")  # memories of one repeat, in order
    memories: dict[str, Any] | None = None  # options of each memory of the pattern, by name
    # tokens of a call after which outer gradients through a memory's state are cut: for all
    # memories, or by name; 1: none flow between tokens; None: no cut
    truncate: int | dict[str, int] | None = None
    norm_eps: float = 1e-6  # added to the mean square in every RMSNorm of the backbone
    initializer_range: float = 0.02  # standard deviation of the embedding and the head
    tie_word_embeddings: bool = False  # True: the head is the embedding
    # tokens between two writes of the head from its prediction errors; None: never written
    head_period: int | None = None
    head_keys: str = "hidden"  # its keys: the "hidden" state; "context": with the last tokens, too
    # tokens for which it is written, those that were the last to follow; None: the whole vocabulary
    head_slots: int | None = None
    use_cache: bool = True  # return the memory's state when not training
    bos_token_id: int | None = None  # begins a document
    eos_token_id: int | list[int] | None = None  # ends a document
    pad_token_id: int | None = None  # fills a row; masked

    def __post_init__(self, **kwargs):
        self._check()
        self.pattern = list(self.pattern)
        # as config.json would return it, so that a saved configuration equals the original
        self.memories = {
            name: {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
            for name, options in (self.memories or {}).items()
        }
        super().__post_init__(**kwargs)
        if not self.pattern:
            raise UserError("pattern must name at least one memory")
        for name in self.memories:
            if name not in self.pattern:
                hint = did_you_mean(name, self.pattern)
                raise UserError(f"options for {name!r}, which is not in the pattern: {hint}")
        self.memory_configs()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a file's contents, without options that have no effect.

        Older versions saved such options; now they raise UserError.
        """
        if isinstance(memories := config_dict.get("memories"), dict):
            config_dict = config_dict | {"memories": without_unread(memories)}
        return super().from_dict(config_dict, **kwargs)

    def _check(self) -> None:
        for name, hint in HopeConfig.__annotations__.items():
            value = getattr(self, name)
            if not fits(value, hint):
                raise UserError(f"{name} must be {spell_type(hint)}, not {value!r}")
        sizes = "vocab_size", "hidden_size", "num_hidden_layers", "num_heads"
        for name in (*sizes, "head_period", "head_slots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; give at least 1")
        if self.head_keys not in KEYS:
            raise UserError(
                f"unknown head_keys {self.head_keys!r}: {did_you_mean(self.head_keys, KEYS)}"
            )
        for name in ("head_keys", "head_slots"):
            value = getattr(self, name)
            if self.head_period is None and value not in (KEYS[0], None):
                raise UserError(f"{name}={value} has no effect without head_period; set it")
        check_slots(self.head_slots, self.head_period or 1)
        by_name: dict[str, Any] = self.truncate if isinstance(self.truncate, dict) else {}
        for name in by_name:
            if name not in self.pattern:
                near = did_you_mean(name, self.pattern)
                raise UserError(f"truncate of {name!r}, which is not in the pattern: {near}")
        lengths: list[Any] = [*by_name.values()] if by_name else [self.truncate]
        for length in lengths:
            if length is not None and not (fits(length, int) and length >= 1):
                raise UserError(f"truncate is {length!r}; give a number of tokens, at least 1")

    def truncates(self, name: str) -> int | None:
        """The tokens after which gradients through this memory's state are cut; None: never."""
        return self.truncate.get(name) if isinstance(self.truncate, dict) else self.truncate

    def memory_configs(self) -> dict[str, Any]:
        """The validated Config of each memory in the pattern; a mistake raises UserError."""
        assert self.memories is not None
        return {name: memory_config(name, self.memories.get(name, {})) for name in self.pattern}


def memory_fields(name: str) -> list[str]:
    """The option names of a memory."""
    return [field.name for field in dataclasses.fields(MEMORIES.load(name).Config)]


def former_fields(name: str) -> list[str]:
    """The option names that a memory had in earlier versions."""
    return list(MEMORIES.load(name).retired)


def memory_config(name: str, options: dict[str, Any]) -> Any:
    """Build a memory's Config; an unknown option raises UserError and suggests the nearest."""
    memory = MEMORIES.load(name)
    kind, retired = memory.Config, memory.retired
    hints = typing.get_type_hints(kind)
    for option in retired.keys() & options.keys() - hints.keys():
        value, instead = retired[option]
        if options[option] != value:
            raise UserError(f"{name}.{option} has been removed and is always {value!r}; {instead}")
    # JSON has no tuples
    values = {
        key: tuple(v) if isinstance(v, list) else v
        for key, v in options.items()
        if key in hints or key not in retired
    }
    for option, value in values.items():
        if option not in hints:
            raise UserError(f"unknown option {name}.{option}: {did_you_mean(option, hints)}")
        if not fits(value, hints[option]):
            raise UserError(f"{name}.{option} must be {spell_type(hints[option])}, not {value!r}")
    return kind(**values)


def without_unread(memories: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options of memories in a file, without those that have no effect."""
    found = {name: dict(options) for name, options in memories.items()}
    for name, options in found.items():
        while (option := _unread(name, options)) is not None:
            del options[option]
    return found


def _unread(name: str, options: dict[str, Any]) -> str | None:
    """Find an option of a memory that was set but has no effect."""
    try:
        memory_config(name, options)
    except UnreadOption as error:
        return error.option
    except UserError:  # another mistake, which the configuration will report
        return None
    return None


def spell_type(hint: Any) -> str:
    """A type as written in source code.

    >>> spell_type(int), spell_type(int | None), spell_type(typing.Literal["code", "paper"])
    ('int', 'int | None', "'code' or 'paper'")
    """
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the declared type of an option.

    >>> fits(3, int | None), fits("3", int), fits(True, int), fits((4, 8), tuple[int, ...])
    (True, False, False, True)
    """
    kinds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in kinds
    if origin in (tuple, list):
        return isinstance(value, origin) and all(fits(item, kinds[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if kinds:
        return any(fits(value, kind) for kind in kinds)
    if hint in (int, float):
        number = int if hint is int else int | float
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


AutoConfig.register(HopeConfig.model_type, HopeConfig, exist_ok=True)
