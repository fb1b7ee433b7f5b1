"""A memory leaves the process that made it, and another one goes on from the file."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from nestling.models.cache import MemoryCache
from nestling.models.decode import read
from nestling.models.folder import load_model
from nestling.models.hf import HopeForCausalLM

START = "import sys; from nestling.demo.resume import main; main(sys.argv[1:])"


class Followed(NamedTuple):
    """Most likely tokens, one after the other, and the logits each was taken from."""

    tokens: Int[Tensor, "N"]
    logits: Float[Tensor, "N V"]


def follow(model: HopeForCausalLM, cache: MemoryCache, token: int, count: int) -> Followed:
    """Read ``token`` after what ``cache`` remembers and write ``count`` tokens on, greedily.

    ``cache`` itself stays where it stands.
    """
    cache, tokens, logits = cache.fork(), [], []
    for _ in range(count):
        out, cache = read(model, torch.tensor([[token]], device=model.device), cache)
        token = int(out.argmax(-1))
        tokens.append(token)
        logits.append(out[0].float().cpu())
    return Followed(torch.tensor(tokens), torch.stack(logits))


def follow_elsewhere(folder: Path, memory: Path, token: int, count: int, device: str) -> Followed:
    """The same as ``follow``, in a new process that knows the model folder and the file only."""
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place) / "answer.safetensors"
        options = [folder, memory, token, count, device, torch.get_num_threads(), answer]
        command = [sys.executable, "-c", START, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the process that loads the memory failed: {done.stderr[-2000:]}")
        return Followed(**load_file(answer))


def main(arguments: Sequence[str]) -> None:
    """What the new process does; the arguments are those of ``follow_elsewhere``, in its order."""
    folder, memory, token, count, device, threads, answer = arguments
    torch.set_num_threads(int(threads))  # sums in another order would differ in the last bits
    model, _ = load_model(Path(folder), device)
    cache = MemoryCache.load(memory, model)
    save_file(follow(model, cache, int(token), int(count))._asdict(), answer)


def carry_over(
    model: HopeForCausalLM,
    folder: Path,
    memory: Path,
    passage: Int[Tensor, "N"],
    *,
    count: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Read all of ``passage`` but its last token, save the memory, and go on here and elsewhere.

    ``folder`` holds the same model. ``without_memory`` is how far the first logits are off when
    the last token is read by a model that has read nothing: what there is to lose.
    """
    _, cache = read(model, passage[None, :-1].to(model.device))
    cache.save(memory)
    token = int(passage[-1])
    here = follow(model, cache, token, count)
    there = follow_elsewhere(folder, memory, token, count, device)
    fresh = follow(model, model.new_cache(), token, 1)
    return {
        "passage_tokens": len(passage) - 1,
        "memory_bytes": memory.stat().st_size,
        "tokens_compared": count,
        "same_tokens": bool((here.tokens == there.tokens).all()),
        "max_logit_difference": float((here.logits - there.logits).abs().max()),
        "without_memory": float((here.logits[0] - fresh.logits[0]).abs().max()),
    }
