"""Build models from presets and overrides."""

from typing import Any

import torch

from nestling.core.error import UserError, did_you_mean
from nestling.core.options import UnreadOption
from nestling.models.config import HopeConfig, former_fields, memory_fields
from nestling.models.hf import HopeForCausalLM
from nestling.models.presets import preset

CONFIG_FIELDS = [name for name in HopeConfig.__annotations__ if name not in ("model_type",)]


def configure(name: str, *, vocab_size: int = 4096, **overrides: Any) -> HopeConfig:
    """The configuration of a preset with overrides; see ``create``."""
    values = preset(name)
    values["vocab_size"] = vocab_size
    fields = {key: value for key, value in overrides.items() if key in CONFIG_FIELDS}
    values.update(fields)
    pattern = list(values["pattern"])
    # with a new pattern, options of memories that it does not contain are dropped
    if "pattern" in fields and "memories" not in fields:
        values["memories"] = {k: v for k, v in values["memories"].items() if k in pattern}
    for key, value in overrides.items():
        if key not in fields:
            for memory, option in owners(key, pattern):
                values["memories"].setdefault(memory, {})[option] = value
    return HopeConfig(**values)


def without_unread(name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that a run was started with, without options that have no effect."""
    while True:
        try:
            configure(name, **overrides)
            return overrides
        except UnreadOption as error:
            kept = {k: v for k, v in overrides.items() if k.rpartition(".")[2] != error.option}
            if kept == overrides:
                return overrides
            overrides = kept
        except UserError:  # another mistake, which the caller will report
            return overrides


def owners(key: str, pattern: list[str]) -> list[tuple[str, str]]:
    """The memories of the pattern that an override addresses, with the option's name.

    Options of earlier versions are found too; reading their values raises an error that explains
    the change.
    """
    options = {name: memory_fields(name) for name in dict.fromkeys(pattern)}
    former = {name: former_fields(name) for name in options}
    for table in (options, former):
        pairs = [(name, field) for name, fields in table.items() for field in fields]
        if found := [pair for pair in pairs if key in (pair[1], ".".join(pair))]:
            return found
    plain = {field for fields in options.values() for field in fields}
    dotted = [f"{name}.{field}" for name, fields in options.items() for field in fields]
    known = [*CONFIG_FIELDS, *(dotted if "." in key else plain)]
    raise UserError(f"unknown option {key!r}: {did_you_mean(key, known)}")


def create(
    name: str, *, vocab_size: int = 4096, seed: int = 0, **overrides: Any
) -> HopeForCausalLM:
    """Build a preset with fresh weights drawn from ``seed``; float32, on the CPU.

    An override is a field of HopeConfig (``num_hidden_layers=2``), an option of a memory in the
    pattern (``writes=False``, set on every memory that has it) or, prefixed with a memory's name
    and a dot, of that one only (``**{"self_titans.period": 64}``). An unknown one raises UserError.
    torch's global random state is neither read nor changed.
    """
    config = configure(name, vocab_size=vocab_size, **overrides)
    with torch.device("meta"):
        model = HopeForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.initialize_weights(torch.Generator().manual_seed(seed))
    return model.eval()


def embedding_parameters(model: HopeForCausalLM) -> int:
    """Parameters in the embedding and the head; counted once if they are tied."""
    ends: set[Any] = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    return sum(weight.numel() for weight in ends)
