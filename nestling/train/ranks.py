"""One training run on several processes: the rows each of them reads, and what they agree on."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nestling.core.error import UserError
from nestling.data import Batch
from nestling.models.cache import MemoryCache, together
from nestling.models.hf import HopeForCausalLM
from nestling.optim import Leveled
from nestling.train.sequence import Chain, Whole, segment, shared

if TYPE_CHECKING:
    from nestling.train.pieces import Pieces
    from nestling.train.sharding import Divided
    from nestling.train.together import Writer

SHARDS = ("none", "full", "hybrid")  # of the weights: each process all; all of them; of a machine


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, of which this one is number ``rank``; by default it is alone.

    Each holds the whole model and optimizer (torch's DistributedDataParallel), or ``shard`` of them
    hold one between them (``nestling.train.sharding``). All walk through the same text; each reads
    its share of the rows of every batch, or a segment of every row (``nestling.train.sequence``).
    So the batch, the curve and the checkpoints are those of one process, whatever the number of
    ranks, up to the order of sums, and a run may go on with another number of them.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    shard: int = 1  # processes that hold one model between them
    sequence: bool = False  # each reads a segment of every row; False: rows of its own

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and tells what happens."""
        return self.rank == 0

    def over(self, shard: str) -> "Ranks":
        """The same processes with weights divided as ``shard`` says, see ``shards_of``."""
        return dataclasses.replace(self, shard=shards_of(shard, self.world))

    def check(self, rows: int, length: int) -> None:
        """Raise UserError unless a batch of ``rows`` of ``length`` tokens can be shared equally."""
        if self.sequence:
            shared(length, self.world)
        elif rows % self.world:
            raise UserError(
                f"batch_size {rows} cannot be shared by {self.world} processes; "
                f"choose a multiple of {self.world}"
            )

    def rows(self, count: int) -> slice:
        """Which of ``count`` rows this process reads."""
        if self.sequence:
            return slice(0, count)
        share = count // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def part(self, x: Tensor) -> Tensor:
        """What this process reads of the rows and tokens of a tensor [B, T]."""
        if self.world == 1:
            return x
        if not self.sequence:
            return x[self.rows(len(x))]
        return segment(x, self.rank, self.world)

    def share(self, batch: Batch) -> Batch:
        """What this process reads of a batch."""
        return Batch(*map(self.part, batch))

    def chain(self, model: HopeForCausalLM) -> Chain | Whole:
        """How the processes read a sequence of ``model``; UserError where they cannot divide it."""
        return Chain(model) if self.sequence and self.world > 1 else Whole()

    def module(self, model: HopeForCausalLM) -> "nn.Module | Divided":
        """The model to call: with more than one process, one whose gradients are means over them.

        Which parameters a step uses may change from step to step, so that is looked for anew. A
        model that is to be divided is so from now on: only then may an optimizer take it.
        """
        if self.world == 1:
            return model
        if self.shard > 1:
            from nestling.train.sharding import Divided

            return Divided(model, world=self.world, over=self.shard, device=self.device)
        with warnings.catch_warnings():
            # the name that takes its place is unknown to the oldest torch that is allowed
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                model,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=True,
            )

    def gradients_of(
        self, module: "nn.Module | Divided", *, last: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Around each forward and backward pass of a step: gradients are summed in the last."""
        if not isinstance(module, nn.Module):
            return module.gradients(last=last)
        if last or not isinstance(module, DistributedDataParallel):
            return contextlib.nullcontext()
        return module.no_sync()

    def rest(self, model: HopeForCausalLM) -> None:
        """Have every process hold its part of a divided model alone, as between two steps."""
        if self.shard > 1:
            from nestling.train import sharding

            sharding.rest(model)

    def whole_model(self, model: HopeForCausalLM) -> HopeForCausalLM:
        """The model that files are made of; every process has to ask, the first gets it whole."""
        if self.shard == 1:
            return model
        from nestling.train import sharding

        return sharding.whole_model(model, keep=self.first) or model

    def writer(self) -> "Writer | None":
        """What writes checkpoints of a divided model, with all processes; None of a whole one."""
        if self.shard == 1:
            return None
        from nestling.train.together import Writer

        return Writer()

    def outline(self, model: HopeForCausalLM) -> HopeForCausalLM:
        """A model of the same shapes whose parameters can be looked at outside of a call."""
        if self.shard == 1:
            return model
        from nestling.train import sharding

        return sharding.outline(model)

    def norm(self, module: "nn.Module | Divided", gradients: list[Tensor]) -> Tensor:
        """The length of all gradients of a model, where they are."""
        if not isinstance(module, nn.Module):
            return module.norm(gradients)
        return torch.nn.utils.get_total_norm(gradients)

    def optimizer(
        self,
        module: "nn.Module | Divided",
        groups: list[dict[str, Any]],
        make: Callable[[list[dict[str, Any]]], Leveled],
    ) -> "Leveled | Pieces":
        """What ``make`` builds for groups of a model's parameters, or of what is here of them."""
        return make(groups) if isinstance(module, nn.Module) else module.optimizer(groups, make)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in float64; with one of them the values themselves.

        What is on a CPU is exchanged from there, so that no device is waited for.
        """
        if self.world == 1:
            return values
        summed = values.detach().to(torch.float64, copy=True)
        distributed.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process, so that all do the same."""
        return bool(self.total(torch.tensor([float(flag)])).any()) if self.world > 1 else flag

    def whole(self, cache: MemoryCache | None) -> MemoryCache | None:
        """The memory of all rows out of each process's own; every process has to ask for it."""
        if cache is None or self.world == 1 or self.sequence:
            return cache  # of a divided sequence the first process has it
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, cache.to("cpu"))
        return together(parts)

    def own(self, cache: MemoryCache | None) -> MemoryCache | None:
        """The memory of the rows this process reads, of one of all rows."""
        if cache is None or self.world == 1:
            return cache
        if self.sequence:
            return cache if self.first else None
        own = self.rows(cache.batch_size)
        return cache.map(lambda tensor: tensor[own].clone())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()

    def first_alone(
        self, context: contextlib.AbstractContextManager[object]
    ) -> contextlib.AbstractContextManager[object]:
        """A context that only the first process enters."""
        return context if self.first else contextlib.nullcontext()

    @contextlib.contextmanager
    def first_before_others(self) -> Generator[None]:
        """The first process alone, then the others: what it has cached they need not make again."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: str = "cpu", shard: str = "none", divide: str = "rows") -> Generator[Ranks]:
    """The processes that ``torchrun`` has started, or SLURM with the same variables.

    A process that nobody has given a WORLD_SIZE above 1 is alone. On CUDA each process takes the
    device of its LOCAL_RANK, unless ``device`` names one. ``shard`` as ``shards_of``;
    ``divide``: "rows", each process reads rows of its own, or "sequence", a segment of each. Raises
    UserError where a variable that torch needs to find the others is missing.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sequence = divide == "sequence"
    if shards_of(shard, world) > 1 and sequence:
        raise UserError(
            "a sequence and the weights cannot be divided among the same processes: a block's "
            "weights are gathered by all at once; choose --divide rows or --shard none"
        )
    if world == 1:
        yield ALONE
        return
    if missing := [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {world} but {missing[0]} is not set; start the command by "
            "torchrun --nproc-per-node N -m nestling train ..."
        )
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", place.index or int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    try:
        ranks = Ranks(distributed.get_rank(), world, place, sequence=sequence)
        yield ranks.over(shard)
    finally:
        distributed.destroy_process_group()


def shards_of(shard: str, world: int) -> int:
    """How many of ``world`` processes hold one model between them.

    "none": 1, each has all; "full": all; "hybrid": those of a machine, torchrun's LOCAL_WORLD_SIZE;
    or a number that divides them. Anything else raises UserError.

    >>> shards_of("none", 4), shards_of("full", 4), shards_of("2", 4)
    (1, 4, 2)
    """
    if shard not in SHARDS and not shard.isdigit():
        raise UserError(f"--shard is {shard!r}; choose {', '.join(SHARDS)} or a number")
    if world == 1 or shard == "none":
        return 1
    here = os.environ.get("LOCAL_WORLD_SIZE", str(world))
    over = world if shard == "full" else int(here if shard == "hybrid" else shard)
    if over < 1 or world % over:
        raise UserError(
            f"{world} processes cannot be divided into groups of {over}; choose --shard none, full "
            "or a divisor"
        )
    return over
