"""Fine-tuning on the stream, of all weights or of adapters, with or without a safeguard.

The safeguards are elastic weight consolidation, which holds the weights that mattered for earlier
tasks, and rehearsal, which replays stored text beside the new.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.continual.methods.elastic import Elastic
from nestling.continual.methods.method import Gateable
from nestling.continual.methods.rehearsal import Rehearsal
from nestling.continual.state import Reading, Stream
from nestling.continual.stream import Cut, read_alone, read_segment
from nestling.core.error import UserError
from nestling.models.functional import FunctionalModel

TRAINED = ("all", "lora")


class GradientMethod(Gateable):
    """Adam on the mean loss of every ``period`` tokens, each token of the stream read once.

    ``model`` is copied; the original remains an expert (``losses``). ``trained`` says
    which weights are trained: "all", or "lora", low-rank adapters of every linear map (peft, arXiv
    2106.09685). ``elastic`` and ``rehearsal`` are the safeguards. ``averages`` are running averages
    of the same weights, slow to fast: at each update an average over k updates moves by 1 / k of
    the way to the current weights. They are used through a gate only.
    """

    def __init__(
        self,
        model: Any,
        *,
        lr: float,
        sizes: Cut,
        trained: str = "all",
        rank: int = 8,
        clip: float = 1.0,
        elastic: Elastic | None = None,
        rehearsal: Rehearsal | None = None,
        averages: Sequence[int] = (),
        seed: int = 0,
        fused: bool = False,  # the optimizer's step in one kernel
    ):
        if trained not in TRAINED:
            raise UserError(f"trained is {trained!r}; choose one of {', '.join(TRAINED)}")
        self.keeps_documents = rehearsal is not None
        self.model = copy.deepcopy(model)
        if trained == "lora":
            self.model = with_lora(self.model, rank, seed)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=fused)
        self.sizes = sizes
        self.clip = clip
        self.elastic = elastic
        self.rehearsal = rehearsal
        self.reader = FunctionalModel(self.model.eval())
        self._before = FunctionalModel(model)
        self._updates = 0
        self._moving = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.averages = {
            count: {n: p.detach().clone() for n, p in self._moving.items()} for count in averages
        }
        if elastic is not None:
            elastic.begin(self.parameters)

    def read(self, ids: Sequence[int]) -> None:
        """Make one update for every segment of the document; the last may be shorter."""
        stream, size = Stream(), self.sizes.segment
        for first in range(0, len(ids), size):
            part = tuple(ids[first : first + size])
            starts = (0,) if first == 0 else ()
            self.optimizer.zero_grad()
            stream = self._backward(stream, part, starts)
            gradients = [p.grad for p in self.parameters]
            if all(g is None for g in gradients):
                continue
            if self.elastic is not None:
                self.elastic.note(self.parameters)
            if self.rehearsal is not None:
                for old in self.rehearsal.draw():
                    self._backward(Stream(), old, (0,))
                self.rehearsal.store(part)
            if self.elastic is not None:
                self.elastic.pull(self.parameters)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
            self._updates += 1
            self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        for count, average in self.averages.items():
            for name, value in average.items():
                value.lerp_(self._moving[name].detach(), 1 / count)

    def _backward(self, stream: Stream, ids: tuple[int, ...], starts: tuple[int, ...]) -> Stream:
        """Add the gradient of the mean loss of some tokens."""
        losses: list[Tensor] = []
        device = self.parameters[0].device
        for piece in read_segment(self.reader, {}, stream, ids, starts, self.sizes, device):
            stream = piece.stream
            losses.append(piece.losses)
        loss = torch.cat(losses)
        if len(loss):
            loss.mean().backward()
        return stream

    def end_task(self) -> None:
        """Let the elastic weights record what mattered in the task."""
        if self.elastic is not None:
            self.elastic.end_task(self.parameters)

    def score(self, ids: Sequence[int]) -> Reading:
        """With the current weights."""
        losses = self._losses(self.reader, {}, ids)
        return Reading(tokens=len(ids), scored=len(losses), nats=float(losses.double().sum()))

    def losses(self, ids: Sequence[int]) -> Float[Tensor, "K N"]:
        """With the weights before anything was read, the averages, and the current weights."""
        return torch.stack(
            [
                self._losses(self._before, {}, ids),
                *(self._losses(self.reader, average, ids) for average in self.averages.values()),
                self._losses(self.reader, {}, ids),
            ]
        )

    def _losses(
        self, reader: FunctionalModel, weights: Mapping[str, Tensor], ids: Sequence[int]
    ) -> Float[Tensor, " N"]:
        return read_alone(reader, weights, tuple(ids), self.sizes, self.parameters[0].device)

    @property
    def updates(self) -> int:
        """Steps of the optimizer."""
        return self._updates


def with_lora(model: Any, rank: int, seed: int) -> Any:
    """The model with low-rank adapters on all linear maps, the only weights that are trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("LoRA needs peft: pip install 'nestling[continual]'") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config).base_model.model
