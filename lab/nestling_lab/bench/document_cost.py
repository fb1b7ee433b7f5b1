"""The memory that training on one long document takes, read in segments."""

from collections.abc import Sequence
from typing import Any

import torch

from nestling.core.error import UserError
from nestling.data import Batch
from nestling.models import create
from nestling.train import Run, TrainConfig
from nestling_lab.bench.gate import hold, streaming_error
from nestling_lab.bench.memory import peak_of
from nestling_lab.bench.turns import say


class Document:
    """A loader of the segments of one document of random tokens.

    After the last segment the document starts again.
    """

    def __init__(self, vocab_size: int, length: int, segment: int):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(vocab_size, (1, length + 1), generator=generator)
        self.segment = segment
        self.at = 0

    def __iter__(self) -> "Document":
        """The loader itself, which is endless."""
        return self

    def __next__(self) -> Batch:
        """The next segment."""
        end = min(self.at + self.segment, self.ids.shape[1] - 1)
        ids = self.ids[:, self.at : end + 1]
        reset = torch.zeros(1, end - self.at, dtype=torch.bool)
        reset[:, 0] = self.at == 0
        self.at = end % (self.ids.shape[1] - 1)
        return Batch(ids[:, :-1], ids[:, 1:], reset, torch.ones_like(reset))

    def state_dict(self) -> dict[str, Any]:
        """The current token."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a token."""
        self.at = state["at"]


def document_peak(
    name: str, length: int, *, segment: int, vocab_size: int, device: str, **options: Any
) -> int:
    """The peak bytes of tensors while a model is trained on one document, from end to end.

    There is one optimizer step per segment; the memory is carried from segment to segment, and
    back-propagation is cut between them. Weights, optimizer state and text are not included.
    """
    model = create(name, vocab_size=vocab_size, **options).to(device)
    hold(name, {"reading in two pieces and at once": streaming_error(model)})
    document = Document(vocab_size, length, segment)
    config = TrainConfig(batch_size=1, sequence_length=segment, carry=True)
    run = Run(model, document, config)
    slowest = max(model.parameter_periods().values())
    for _ in range(max(1, -(-slowest // segment))):
        run.step()  # the optimizer allocates the state of a level at its first write
    run.optimizer.zero_grad()  # so that the first step frees nothing from before it
    run.memory = None
    document.at = 0

    def whole() -> None:
        for _ in range(-(-length // segment)):
            run.step()

    return peak_of(whole, device)


def documents(
    presets: Sequence[str],
    lengths: Sequence[int],
    *,
    segment: int = 512,
    vocab_size: int = 4096,
    device: str = "cpu",
    quiet: bool = False,
    **options: Any,
) -> dict[str, dict[str, dict[str, float]]]:
    """``peak_mib`` for each preset and document length, also relative to the shortest document.

    ``lengths`` and ``segment`` are in tokens; ``options`` are options of the presets. Deterministic
    on a CPU.
    """
    if min(segment, *lengths) < 1:
        raise UserError(f"lengths are {list(lengths)}, segment {segment}; give at least 1 token")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in presets:
        shared: dict[str, Any] = {"segment": segment, "vocab_size": vocab_size, "device": device}
        peaks = {}
        for length in sorted(lengths):
            peaks[length] = document_peak(name, length, **shared, **options) / 2**20
            say(f"{name}: a document of {length} tokens: {peaks[length]:,.0f} MiB", quiet)
        first = peaks[min(peaks)]
        found[name] = {
            str(length): {"peak_mib": peak, "over_shortest": peak / first}
            for length, peak in peaks.items()
        }
    return found
