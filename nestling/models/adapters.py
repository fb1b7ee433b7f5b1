"""The linear maps that PEFT adapts by default in our models."""

from peft.utils import constants

from nestling.models.config import HopeConfig

# maps into a memory and out of it; every memory has some of them
MAPS = ["query", "key", "value", "projection", "input", "recurrent", "output"]
# where the method of that table suits other modules
OTHERS = {"LNTUNING": ["norm"], "BEFT": ["value", "projection"]}


def name_modules() -> None:
    """Add an entry for our models to every such table of PEFT."""
    begin, end = "TRANSFORMERS_MODELS_TO_", "_TARGET_MODULES_MAPPING"
    for name, table in vars(constants).items():
        if name.startswith(begin) and name.endswith(end):
            method = name.removeprefix(begin).removesuffix(end)
            table.setdefault(HopeConfig.model_type, OTHERS.get(method, MAPS))
    # what IA3 scales at its input
    table = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    table.setdefault(HopeConfig.model_type, ["output"])


name_modules()
