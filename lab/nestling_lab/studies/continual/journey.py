"""One run of a method through the domains, asked through several gates at every stage."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nestling.continual.gate import seats
from nestling.continual.methods import Gateable, Method
from nestling.continual.stream import Cut
from nestling.core.mixture import followed
from nestling.data import load_corpus
from nestling_lab.studies.continual.base import (
    Pretraining,
    Ready,
    encoded,
    real,
    size_in_bytes,
    small,
)
from nestling_lab.studies.continual.contenders import EVERY, NONE, Place
from nestling_lab.studies.study import Tell, silent

OLD = "world-english-bible"
KNOWN = 32  # documents of the old domain that EWC and rehearsal start with

Matrix = Sequence[Sequence[float]]


class Texts(NamedTuple):
    """The texts of one domain, as token ids."""

    read: list[list[int]]
    validation: list[list[int]]
    test: list[list[int]]


def texts(config: Mapping[str, Any], name: str, base: Ready, seed: int) -> Texts:
    """The text of a domain to read with this seed, and to score with every seed."""
    corpus = load_corpus(name)
    documents, held_out = list(corpus.documents), list(corpus.held_out)
    random.Random(seed).shuffle(documents)
    random.Random(0).shuffle(held_out)
    half = max(1, len(held_out) // 2)
    score = {"tokens": config["test_tokens"], "longest": config["test_longest"]}
    return Texts(
        encoded(base.tokenizer, documents, config["tokens"], config["longest"]),
        encoded(base.tokenizer, held_out[:half], **score),
        encoded(base.tokenizer, held_out[half:], **score),
    )


def bits(
    method: Method, base: Ready, documents: Sequence[Sequence[int]], gates: Sequence[str]
) -> dict[str, float]:
    """Bits per byte over documents, through each gate."""
    nats = dict.fromkeys(gates, 0.0)
    for ids in documents:
        if not isinstance(method, Gateable):
            nats = {gate: total + method.score(ids).nats for gate, total in nats.items()}
            continue
        losses = method.losses(ids)
        for gate in gates:
            experts = seats(None if gate == NONE else gate, len(losses))
            nats[gate] -= float(followed(-losses[list(experts)])[0].sum())
    size = math.log(2) * sum(size_in_bytes(base.tokenizer, ids) for ids in documents)
    return {gate: total / size for gate, total in nats.items()}


class Run(NamedTuple):
    """One run, asked through one gate."""

    matrix: Matrix  # bits per byte; a row per stage, a column per domain, the old one first
    validation: float  # bits per byte at the end, mean over domains, on other text
    updates: int


def travel(config: Mapping[str, Any], seed: int, tell: Tell = silent) -> dict[str, Run]:
    """Read all domains, one after another; return the run as seen through each gate."""
    about = config["base"]
    base = real(about) if isinstance(about, str) else small(Pretraining(**about), seed, tell)
    names, gates = (OLD, *config["domains"]), config["gates"]
    domains = [texts(config, name, base, seed) for name in names]
    known = domains[0].read[:KNOWN]
    sizes = Cut(config["segment"], config["window"])
    place = Place(base, known, sizes, seed)
    method = EVERY[config["method"]].build(place, dict(config["setting"]))
    stages = [[bits(method, base, domain.test, gates) for domain in domains]]
    for domain in domains[1:]:
        for ids in domain.read:
            method.read(ids)
        method.end_task()
        stages.append([bits(method, base, d.test, gates) for d in domains])
        tell(len(stages) - 1, len(domains) - 1, stages[-1][0][gates[0]])
    validation = [bits(method, base, domain.validation, gates) for domain in domains]
    return {
        gate: Run(
            [[found[gate] for found in stage] for stage in stages],
            sum(found[gate] for found in validation) / len(domains),
            method.updates,
        )
        for gate in gates
    }
