"""A sequence divided among processes, compared with the whole in each of them."""

from contextlib import nullcontext

import torch
from tiny_training import SIZE
from torch import distributed

from nestling.models import create
from nestling.models.cache import named_tensors
from nestling.train.sequence import Chain

LENGTH, ROWS, WORDS = 72, 2, 50


def texts():
    """Two calls: ids and document starts, including one in the middle of the second row."""
    draw = torch.Generator().manual_seed(0)
    for places in ([0, 41], [7, LENGTH // 2]):
        ids = torch.randint(WORDS, (ROWS, LENGTH), generator=draw)
        reset = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
        reset[1, places] = True
        yield ids, reset, torch.randn(ROWS, LENGTH, WORDS, generator=draw, dtype=torch.float64)


def read(model, chain=None):
    """Logits of the second call, gradients of all parameters, and the final memory."""
    part = chain.segment if chain else lambda x: x
    cache, logits = model.new_cache(), None
    model.zero_grad()
    for ids, reset, weight in texts():
        cache = cache.detach()
        with chain.reading() if chain else nullcontext():
            logits = model(
                input_ids=part(ids), reset=part(reset), past_key_values=cache, use_cache=True
            ).logits
        (logits * part(weight).to(logits.dtype)).sum().backward()
        if chain:
            states = chain.brought_back(cache.states)
            cache.states = cache.states if states is None else states
    found = {f"states.{name}": x for name, x in named_tensors(cache.states)}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


def apart(one, other, scale=None):
    """The largest difference relative to the largest number."""
    if not one.numel():
        return 0.0
    scale = scale or largest(one)
    return float((one.double() - other.double()).abs().max()) / scale


def largest(x):
    """The largest number of a tensor."""
    return float(x.double().abs().max().clamp_min(1e-30))


def errors(wanted, ranks):
    """Of each kind what is furthest apart, by the part it is of, found by each process.

    A kind is {"model", "dtype", "options", "checkpointing"}. Differences of logits, gradients and
    the memory at the end are relative to the largest number of a tensor; in float32 a gradient's to
    the largest of all, for what a processor rounds of a small one says nothing of the division.
    """
    found = []
    for kind in wanted:
        options = {"intermediate_size": 32} if kind["model"] != "mamba2-tiny" else {}
        model = create(
            kind["model"], vocab_size=WORDS, seed=0, **SIZE | options | kind.get("options", {})
        )
        model = model.to(getattr(torch, kind["dtype"])).train()
        if kind.get("checkpointing"):
            model.gradient_checkpointing_enable()
        logits, alone = read(model)
        chain = Chain(model)
        own, divided = read(model, chain)
        sums = {}
        for name in alone:
            if name.startswith("states."):
                sums[name] = divided[name]
                continue
            sums[name] = divided.get(name, torch.zeros_like(alone[name])).clone()
            distributed.all_reduce(sums[name])
        worst = {"logits": apart(chain.segment(logits), own)}
        most = max(largest(x) for name, x in alone.items() if not name.startswith("states."))
        for name, x in alone.items():
            part = "states" if name.startswith("states.") else "gradients"
            if part == "gradients" or ranks.first:  # the memory is brought back to the first
                whole = most if (part, kind["dtype"]) == ("gradients", "float32") else None
                worst[part] = max(worst.get(part, 0.0), apart(x, sums[name], whole))
        worst["parts"] = len(alone)
        found.append(worst)
    every = [None] * ranks.world
    distributed.all_gather_object(every, found)
    return every
