"""Labelled texts from the Hugging Face hub, fetched with ``datasets``."""

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nestling.core.error import UserError
from nestling.data.sets import Labelled, Report, TextSet

PARTS = {"train": "learn", "test": "ask"}  # the splits that are used


def rows(
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
    text: str,
    label: Callable[[Mapping[str, Any]], str | None],
) -> Iterator[Labelled]:
    """The labelled records of the splits in ``PARTS``, with runs of whitespace collapsed.

    >>> made = {"train": [{"q": " a  b", "c": "x"}], "test": [{"q": "d", "c": None}]}
    >>> list(rows(made, "q", lambda row: row["c"]))
    [Labelled(text='a b', label='x', part='learn')]
    """
    for split, part in PARTS.items():
        for row in splits[split]:
            name = label(row)
            if name:
                yield Labelled(" ".join(row[text].split()), name, part)


def words(name: str) -> str:
    """Turn an identifier into words.

    >>> words("Refund_not_showing_up"), words("SportsTeamMember"), words("NCAATeamSeason")
    ('refund not showing up', 'sports team member', 'ncaa team season')
    """
    spaced = re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(spaced.replace("_", " ").split()).lower()


def load(repository: str, configuration: str | None, report: Report) -> Any:
    """Load the splits of a data set from the hub.

    Raises UserError without ``datasets`` or the network.
    """
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError("this data set needs datasets: pip install 'nestling[eval]'") from error
    report(f"fetching {repository} from the Hugging Face hub ...")
    try:
        return library.load_dataset(repository, configuration)
    except Exception as error:  # the hub, the network and the cache raise many kinds
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"cannot fetch {repository} ({reason}); check the network") from error


def clinc150(splits: Any) -> Iterator[Labelled]:
    """Queries labelled with the name of their intent, without the out-of-scope ones."""
    names = splits["train"].features["intent"].names

    def label(row: Mapping[str, Any]) -> str | None:
        name = names[row["intent"]]
        return None if name == "oos" else words(name)

    return rows(splits, "text", label)


def banking77(splits: Any) -> Iterator[Labelled]:
    """Questions labelled with the name of their intent.

    The copy on the hub has no repeated texts: 14 fewer than were published.
    """
    return rows(splits, "text", lambda row: words(row["label_text"]))


def dbpedia(splits: Any) -> Iterator[Labelled]:
    """Abstracts labelled with one of the 70 classes of the second level."""
    return rows(splits, "text", lambda row: words(row["l2"]))


def _set(
    name: str,
    summary: str,
    licence: str,
    repository: str,
    configuration: str | None,
    read: Callable[[Any], Iterator[Labelled]],
) -> TextSet:
    def make(report: Report) -> Iterator[Labelled]:
        return read(load(repository, configuration, report))

    return TextSet(name=name, summary=summary, licence=licence, record=Labelled, make=make)


CLINC150 = _set(
    "clinc150",
    "CLINC150: queries of 150 intents (hub)",
    "CC-BY-3.0",
    "clinc/clinc_oos",
    "plus",
    clinc150,
)
BANKING77 = _set(
    "banking77",
    "Banking77: questions to a bank of 77 intents (hub)",
    "CC-BY-4.0",  # stated by the publishers; this copy has text columns only, and no script
    "mteb/banking77",
    None,
    banking77,
)
DBPEDIA = _set(
    "dbpedia",
    "DBpedia classes: abstracts of 70 classes (hub)",
    "CC0-1.0",
    "DeveloperOats/DBPedia_Classes",
    None,
    dbpedia,
)
