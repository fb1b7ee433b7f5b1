"""The cost of generating a token: by context length, against others, and in a batch."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.models import create
from nestling.models.decode import compiled_step, read
from nestling_lab.bench import peers
from nestling_lab.bench.gate import decoding_error, hold, relative, sample_ids
from nestling_lab.bench.training_cost import PEER
from nestling_lab.bench.turns import Contestant, over, say, spread, take_turns

COMPILED = ", compiled"  # appended to the name of a model with a compiled step


@dataclass(kw_only=True)
class Writer:
    """A model that generates tokens after a context it has read."""

    name: str
    context: int
    contestant: Contestant
    about: dict[str, Any]


def greedy(step: Callable[[Tensor, Any], Tensor], first: Tensor, cache: Any, tokens: int) -> None:
    """Generate ``tokens`` tokens greedily."""
    token = first
    for _ in range(tokens):
        token = step(token, cache).argmax(-1, keepdim=True)


def plain_step(model: Any) -> Callable[[Tensor, Any], Tensor]:
    """A step through the model's own forward: one token [B, 1] to logits [B, V]."""

    def step(token: Tensor, cache: Any) -> Tensor:
        return model(token, past_key_values=cache, use_cache=True).logits[:, -1]

    return step


def writers(
    name: str, contexts: Sequence[int], *, tokens: int, vocab_size: int, device: str, compiled: bool
) -> list[Writer]:
    """A preset after each context. Raises UserError if decoding differs from the full forward."""
    model = create(name, vocab_size=vocab_size).to(device)
    about = {"gate": hold(name, {"token by token and at once": decoding_error(model)})}
    steps = {name: plain_step(model)}
    if compiled:
        steps[name + COMPILED] = compiled_step(model)
    found = []
    for context in contexts:
        ids = sample_ids(model, 1, context)
        _, cache = read(model, ids)
        for label, step in steps.items():

            def work(step=step, cache=cache, ids=ids) -> None:
                greedy(step, ids[:, -1:], cache.fork(), tokens)

            if label != name:
                logits = [one(ids[:, -1:], cache.fork()) for one in steps.values()]
                about |= {"compiled": hold(label, {"eager and compiled": relative(*logits)})}
            work()
            contestant = Contestant(name=label, work=work)
            found.append(Writer(name=label, context=context, contestant=contestant, about=about))
    return found


def peer_writer(name: str, context: int, *, tokens: int, vocab_size: int, device: str) -> Writer:
    """A third-party model after a context."""
    model: Any = peers.find(name).build(vocab_size).to(device).eval()
    ids = torch.randint(vocab_size, (1, context), generator=torch.Generator().manual_seed(1))
    ids = ids.to(device)
    cache = model(ids, use_cache=True).past_key_values

    def work() -> None:
        greedy(plain_step(model), ids[:, -1:], copy.deepcopy(cache), tokens)

    work()
    return Writer(
        name=PEER + name,
        context=context,
        contestant=Contestant(name=PEER + name, work=work),
        about={},
    )


@torch.inference_mode()
def decoding(
    presets: Sequence[str],
    contexts: Sequence[int],
    *,
    reference_context: int = 4096,
    others: Sequence[str] = (),
    compiled: bool = False,
    tokens: int = 32,
    rounds: int = 5,
    vocab_size: int = 4096,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Milliseconds per token, batch 1, after each context; all take turns.

    The first preset and the peers, whose cost grows with the context, are timed at
    ``reference_context`` only; the others there as well. ``over_reference`` is the speed relative
    to the first preset at that context, ``flat`` the time per token at the longest context relative
    to the shortest. With ``compiled``, each preset is also timed with a compiled step.
    """
    if min(tokens, rounds, reference_context, *contexts) < 1 or not presets:
        raise UserError(
            "presets, contexts, tokens and rounds must not be empty or 0; give at least 1 of each"
        )
    shared: dict[str, Any] = {"tokens": tokens, "vocab_size": vocab_size, "device": device}
    entrants: list[Writer] = []
    for index, name in enumerate(presets):
        own = sorted({reference_context, *(contexts if index else ())})
        entrants += writers(name, own, **shared, compiled=compiled)
        say(f"{name}: has read {', '.join(map(str, own))}", quiet)
    entrants += [peer_writer(name, reference_context, **shared) for name in others]
    take_turns(
        [entrant.contestant for entrant in entrants], rounds=rounds, device=device, quiet=quiet
    )
    found: dict[str, Any] = {}
    for entrant in entrants:
        row = found.setdefault(entrant.name, {"contexts": {}, **entrant.about})
        time = spread([1e3 * seconds / tokens for seconds in entrant.contestant.seconds])
        row["contexts"][str(entrant.context)] = {
            "ms_per_token": time.median,
            "fastest": time.lowest,
            "slowest": time.highest,
        }
    at = {entrant.name: entrant for entrant in entrants if entrant.context == reference_context}
    for name, row in found.items():
        own = [entrant for entrant in entrants if entrant.name == name]
        for reference in (presets[0], presets[0] + COMPILED, *(PEER + other for other in others)):
            if reference in at:
                ratio = over(at[name].contestant, at[reference].contestant).median
                row.setdefault("over", {})[reference] = ratio
        ends = [min(own, key=lambda e: e.context), max(own, key=lambda e: e.context)]
        if ends[0] is not ends[1]:
            ratio = over(ends[0].contestant, ends[1].contestant).median
            row["flat"] = {f"{ends[1].context} over {ends[0].context}": ratio}
    return {"reference": presets[0], "reference_context": reference_context, "presets": found}


@torch.inference_mode()
def batched(
    name: str,
    *,
    rows: int = 8,
    shortest: int = 64,
    longest: int = 512,
    tokens: int = 32,
    rounds: int = 5,
    vocab_size: int = 4096,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """The speed of requests of different lengths in one batch, also relative to a single one.

    Prompts are padded on the left. Raises UserError if the logits of a row differ from those of the
    row by itself.
    """
    model = create(name, vocab_size=vocab_size).to(device)
    lengths = torch.linspace(shortest, longest, rows).long().tolist()
    ids, mask = sample_ids(model, rows, longest), torch.zeros(rows, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = True
    mask = mask.to(device)
    out = model(ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
    step, cache = plain_step(model), out.past_key_values
    together = step(ids[:, -1:], cache.fork())
    alone, single = [], None
    for row, length in enumerate(lengths):
        part = ids[row : row + 1, longest - length :]
        single = read(model, part)[1]
        alone.append(step(part[:, -1:], single.fork()))
    gate = hold(name, {"rows of a batch and alone": relative(together, torch.cat(alone))})
    assert single is not None
    one = single
    all_rows = Contestant(
        name="batch", work=lambda: greedy(step, ids[:, -1:], cache.fork(), tokens)
    )
    one_row = Contestant(name="one", work=lambda: greedy(step, ids[-1:, -1:], one.fork(), tokens))
    take_turns([all_rows, one_row], rounds=rounds, device=device, quiet=quiet)
    speed = spread([rows * tokens / seconds for seconds in all_rows.seconds])
    return {
        "rows": rows,
        "lengths": lengths,
        "tokens_per_second": speed.median,
        "slowest": speed.lowest,
        "fastest": speed.highest,
        "over_one": rows * over(all_rows, one_row).median,
        "gate": gate,
    }
