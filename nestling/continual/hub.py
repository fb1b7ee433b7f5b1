"""Memory files on the Hugging Face hub, with a card and without private text."""

from pathlib import Path
from typing import Any

from nestling.continual.file import MemoryFile, read_memory, write_memory
from nestling.continual.memory import at_rest, level_name
from nestling.core.error import UserError
from nestling.models.hub import CARD, TAGS, card_text, hub_errors
from nestling.report.table import Table

FILE = "memory.safetensors"  # its name in a repository
OPEN = ("context.", "open.")  # what the names of tensors begin with that hold text just read
GATHERED = (".buffer.", ".total.", ".gram.")  # parts of open periods


def shareable(memory: MemoryFile, names: bool = False) -> MemoryFile:
    """A memory file as it can be shared: what was learned, without the text that was read.

    Open periods, the context and (unless ``names``) document names are removed; the questions that
    study generated stay, because they are replayed. A memory with texts yet to be studied raises
    UserError.
    """
    if memory.about.get("waiting"):
        raise UserError(
            "this memory contains the full texts that wait for study; study them before sharing it"
        )
    tensors = {
        name: value
        for name, value in memory.tensors.items()
        if not name.startswith(OPEN) and not any(part in name for part in GATHERED)
    }
    about = at_rest(memory.about, memory.about["storage"])
    about.pop("own", None)  # texts of the base, which are generated again when needed
    if not names:
        about["documents"] = [["", *rest] for _, *rest in about["documents"]]
        about["studied"] = [{**one, "name": ""} for one in about.get("studied", ())]
    return MemoryFile(about, tensors)


def memory_card(
    memory: MemoryFile,
    repository: str,
    *,
    base: str | None = None,
    licence: str | None = None,
    names: bool = False,
) -> str:
    """The model card of a memory file: base model, levels, sizes, licence, how to load it.

    Documents are counted, and listed by name only with ``names``; their text is not included.
    """
    about = memory.about
    sizes = sum(value.numel() * value.element_size() for value in memory.tensors.values())
    rows: list[tuple[str, Any]] = [
        ("base model", base or "not stated"),
        ("architecture", about["architecture"]),
        ("sha256 of the base and its levels", f"`{about['base']}`"),
        ("variant", about["variant"]),
        ("storage", f"{about['storage']}, {sizes:,} bytes"),
        ("tokens read", about["stream"]["tokens"]),
        ("documents", len(about["documents"])),
        ("of which studied", len(about.get("studied", ()))),
        ("licence", licence or "not stated"),
    ]
    levels = about["levels"] or about["stacking"]
    rows += [(f"level {number}", level_name(level)) for number, level in enumerate(levels)]
    told = [f"- {name}" for name, *_ in about["documents"] if name] if names else []
    documents = "\n".join(["", "## Documents", "", *told]) if told else ""
    model = base or "MODEL"
    body = f"""# {repository.rpartition("/")[2]}

A memory file of nestling: what a language model has learned from documents, apart from its weights.
It fits the base model below and no other; loading it into another one is refused.

{Table(columns=("", ""), rows=rows).markdown()}

## How to load it

```sh
pip install nestling
nestling memory pull {repository} notes.memory
nestling ask {model} "A question" --memory notes.memory
```

The model is the one that the memory was learned with, adapted in the same way (`nestling adapt`).
{documents}
"""
    return card_text(body, library_name="nestling", tags=TAGS, base_model=base, license=licence)


def push_memory(
    path: str | Path,
    repository: str,
    *,
    base: str | None = None,
    licence: str | None = None,
    names: bool = False,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Push a memory file and its card to a repository on the hub; returns the commit's address.

    ``base`` is the base model's id on the hub. See ``shareable`` for what is left out.
    """
    import tempfile

    from huggingface_hub import CommitOperationAdd, HfApi

    memory = shareable(read_memory(path), names)
    card = memory_card(memory, repository, base=base, licence=licence, names=names)
    with tempfile.TemporaryDirectory() as folder, hub_errors(f"push to {repository}"):
        file = write_memory(Path(folder) / FILE, memory)
        api = HfApi(token=token)
        whole = api.create_repo(repository, private=private, exist_ok=True).repo_id
        return api.create_commit(
            whole,
            [
                CommitOperationAdd(FILE, file),
                CommitOperationAdd(CARD, card.encode()),
            ],
            commit_message="Add a memory",
        ).commit_url


def pull_memory(
    repository: str, path: str | Path, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download the memory file of a repository, verify it, and write it to a new path."""
    from huggingface_hub import hf_hub_download

    path = Path(path)
    if path.exists():
        raise UserError(f"{path} already exists; choose another name")
    with hub_errors(f"pull {FILE} from {repository}"):
        found = hf_hub_download(repository, FILE, revision=revision, token=token)
    return write_memory(path, read_memory(found))
