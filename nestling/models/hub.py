"""Models on the Hugging Face hub: model cards, and errors in one line."""

import contextlib
from collections.abc import Generator
from typing import Any

from nestling.core.error import UserError
from nestling.report.levels import clock
from nestling.report.table import Table

TAGS = ["nestling", "nested-learning"]
CARD = "README.md"


@contextlib.contextmanager
def hub_errors(what: str) -> Generator[None]:
    """Turn errors of the hub, the network or the cache into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # its library raises several families of errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot {what} ({reason}); check the name of the repository, your rights (hf auth "
            "login) and the network"
        ) from error


def card_text(body: str, **about: Any) -> str:
    """A model card: its metadata as YAML, and a text in Markdown."""
    from huggingface_hub import ModelCardData

    given = {key: value for key, value in about.items() if value is not None}
    return f"---\n{ModelCardData(**given).to_yaml()}\n---\n\n{body.strip()}\n"


def model_card(model: Any, repository: str, licence: str | None = None) -> str:
    """The card of a model of this library: architecture, size, levels, licence, how to load it."""
    config = model.config
    found: dict[tuple[str, str], list[int]] = {}
    for level in model.levels().values():
        found.setdefault((level.name, clock(level)), []).append(level.parameters)
    rows = [(name, when, len(sizes), sum(sizes)) for (name, when), sizes in found.items()]
    levels = Table(columns=("level", "written", "blocks", "numbers"), rows=rows)
    body = f"""# {repository.rpartition("/")[2]}

A {type(model).__name__} of nestling: the pattern {", ".join(config.pattern)},
{config.num_hidden_layers} times, {config.hidden_size} wide, {model.num_parameters():,} parameters.

## Levels

{levels.markdown()}

## How to load it

```python
import nestling  # pip install nestling
from transformers import {_auto(model)}

model = {_auto(model)}.from_pretrained("{repository}")
```

Licence: {licence or "not stated"}.
"""
    return card_text(body, library_name="transformers", tags=TAGS, license=licence)


def _auto(model: Any) -> str:
    """The Auto class that loads it."""
    name = type(model).__name__.removeprefix("Hope").removeprefix("For")
    names = {
        "CausalLM": "AutoModelForCausalLM",
        "SequenceClassification": "AutoModelForSequenceClassification",
        "TokenClassification": "AutoModelForTokenClassification",
    }
    return names.get(name, "AutoModel")


def push_card(model: Any, repository: str, licence: str | None, **options: Any) -> str:
    """Create the repository if needed, and its card; returns the full name of the repository.

    An existing card is kept. ``options`` are ``private`` and ``token``, as in ``push_to_hub``.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.get("token"))
    made = api.create_repo(repository, private=options.get("private"), exist_ok=True)
    repository = made.repo_id
    if not api.file_exists(repository, CARD):
        card = model_card(model, repository, licence)
        api.upload_file(
            path_or_fileobj=card.encode(),
            path_in_repo=CARD,
            repo_id=repository,
            commit_message="Add the model card",
        )
    return repository
