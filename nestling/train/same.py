"""Whether a saved run may be resumed: with the same architecture and settings."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.models.config import without_unread
from nestling.models.hf import HopeForCausalLM
from nestling.train.config import ADAMW, LATER, TrainConfig

# Settings that may change when a run is resumed: when to stop, what to report, and the learning
# rate, to continue after a non-finite loss.
FREE = {"steps", "learning_rate", "max_norm", "evaluate_every", "evaluate_tokens", "save_every"}
FREE |= {"keep", "schedule", "warmup", "decay", "final_rate", "recompute", "peak_flops"}
# Entries that transformers adds to a config and that do not concern the architecture.
VOLATILE = {"transformers_version", "_name_or_path", "dtype", "architectures", "use_cache"}


def check_same(
    model: HopeForCausalLM, config: TrainConfig, optimizer: str, run: dict[str, Any], path: Path
) -> None:
    """Raise UserError unless ``run``, saved in ``path``, may go on with these."""
    own = architecture(model)
    for name in sorted(set(own) | set(run["architecture"])):
        was, now = run["architecture"].get(name), own.get(name)
        if name == "memories" and was != now:
            was = without_unread(was or {})
        if was != now:
            raise UserError(
                f"checkpoint {path} has another architecture ({name} was {was}, here "
                f"{now}); use the preset and options it was trained with"
            )
    # runs saved before there was a choice of optimizer do not record it
    saved = LATER | run["config"] | {"optimizer": run.get("optimizer", ADAMW)}
    present = dataclasses.asdict(config) | {"optimizer": optimizer}
    if not model.parameter_rates():
        saved |= {"rates_by_role": present["rates_by_role"]}  # has no effect
    for name, now in present.items():
        was = saved.get(name)
        if name not in FREE and was != now:
            raise UserError(
                f"{name} was {was} when {path} was saved, but is now {now}; "
                f"resume with the old value ({_spelt(name, was)}), or start a new run in "
                "another folder"
            )


def _spelt(name: str, value: Any) -> str:
    """How a user gives a setting: --seed 4, --set rates_by_role=false."""
    if name in ("seed", "optimizer"):
        return f"--{name} {value}"
    return f"--set {name}={value if isinstance(value, str) else json.dumps(value)}"


def architecture(model: HopeForCausalLM) -> dict[str, Any]:
    """The configuration of a model as plain JSON values."""
    plain = json.loads(json.dumps(model.config.to_dict(), default=str))
    return {name: value for name, value in plain.items() if name not in VOLATILE}
