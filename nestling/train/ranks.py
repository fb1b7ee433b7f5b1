"""One training run on several processes: what each of them reads, and their communication."""

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

SHARDS = ("none", "full", "hybrid")  # of weights: not sharded; over all; per machine


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, of which this is number ``rank``; by default there is one.

    Each holds the whole model and optimizer (torch's DistributedDataParallel), or ``shard`` of them
    hold one together (``nestling.train.sharding``). All go through the same text; each reads its
    share of the rows of every batch, or a segment of every row (``nestling.train.sequence``). So
    batches, loss curve and checkpoints do not depend on the number of ranks, up to the order of
    sums, and a run may be resumed with another number of them.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    shard: int = 1  # processes that hold one model together
    sequence: bool = False  # True: each reads a segment of every row; False: its own rows

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def over(self, shard: str) -> "Ranks":
        """The same processes with sharded weights, see ``shards_of``."""
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
        """The rows of ``count`` that this process reads."""
        if self.sequence:
            return slice(0, count)
        share = count // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def part(self, x: Tensor) -> Tensor:
        """The rows and tokens of a tensor [B, T] that this process reads."""
        if self.world == 1:
            return x
        if not self.sequence:
            return x[self.rows(len(x))]
        return segment(x, self.rank, self.world)

    def share(self, batch: Batch) -> Batch:
        """The part of a batch that this process reads."""
        return Batch(*map(self.part, batch))

    def chain(self, model: HopeForCausalLM) -> Chain | Whole:
        """How the processes read sequences. Raises UserError if ``model`` cannot divide them."""
        return Chain(model) if self.sequence and self.world > 1 else Whole()

    def module(self, model: HopeForCausalLM) -> "nn.Module | Divided":
        """The module to call; with several processes, one that averages gradients over them.

        The set of parameters used may change from step to step, so unused ones are searched for
        each time. A model to be sharded is sharded from here on; create its optimizer afterwards.
        """
        if self.world == 1:
            return model
        if self.shard > 1:
            from nestling.train.sharding import Divided

            return Divided(model, world=self.world, over=self.shard, device=self.device)
        with warnings.catch_warnings():
            # the oldest supported torch does not know the new name
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
        """A context for the forward and backward passes of a step; the last one sums gradients."""
        if not isinstance(module, nn.Module):
            return module.gradients(last=last)
        if last or not isinstance(module, DistributedDataParallel):
            return contextlib.nullcontext()
        return module.no_sync()

    def rest(self, model: HopeForCausalLM) -> None:
        """Free everything but the local shard of a sharded model, as between two steps."""
        if self.shard > 1:
            from nestling.train import sharding

            sharding.rest(model)

    def whole_model(self, model: HopeForCausalLM) -> HopeForCausalLM:
        """Gather the whole model on the first process, to write files; all processes call this."""
        if self.shard == 1:
            return model
        from nestling.train import sharding

        return sharding.whole_model(model, keep=self.first) or model

    def writer(self) -> "Writer | None":
        """The writer for checkpoints of a sharded model; None if it is not sharded."""
        if self.shard == 1:
            return None
        from nestling.train.together import Writer

        return Writer()

    def outline(self, model: HopeForCausalLM) -> HopeForCausalLM:
        """A model of the same shapes whose parameters can be inspected outside of a call."""
        if self.shard == 1:
            return model
        from nestling.train import sharding

        return sharding.outline(model)

    def norm(self, module: "nn.Module | Divided", gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients of a model, on their device."""
        if not isinstance(module, nn.Module):
            return module.norm(gradients)
        return torch.nn.utils.get_total_norm(gradients)

    def optimizer(
        self,
        module: "nn.Module | Divided",
        groups: list[dict[str, Any]],
        make: Callable[[list[dict[str, Any]]], Leveled],
    ) -> "Leveled | Pieces":
        """The optimizer that ``make`` builds for groups of the parameters, or for their shards."""
        return make(groups) if isinstance(module, nn.Module) else module.optimizer(groups, make)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in float64; with one process, the values themselves.

        Values on a CPU are exchanged from there, without waiting for a device.
        """
        if self.world == 1:
            return values
        summed = values.detach().to(torch.float64, copy=True)
        distributed.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process, so that all act alike."""
        return bool(self.total(torch.tensor([float(flag)])).any()) if self.world > 1 else flag

    def whole(self, cache: MemoryCache | None) -> MemoryCache | None:
        """The memory of all rows, gathered from the processes; all of them must call this."""
        if cache is None or self.world == 1 or self.sequence:
            return cache  # with divided sequences the first process has it
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, cache.to("cpu"))
        return together(parts)

    def own(self, cache: MemoryCache | None) -> MemoryCache | None:
        """The memory of the rows this process reads, cut from that of all rows."""
        if cache is None or self.world == 1:
            return cache
        if self.sequence:
            return cache if self.first else None
        own = self.rows(cache.batch_size)
        return cache.map(lambda tensor: tensor[own].clone())

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.world > 1:
            distributed.barrier()

    def first_alone(
        self, context: contextlib.AbstractContextManager[object]
    ) -> contextlib.AbstractContextManager[object]:
        """A context in which only the first process writes."""
        return context if self.first else contextlib.nullcontext()

    @contextlib.contextmanager
    def first_before_others(self) -> Generator[None]:
        """Run the block on the first process, then on the others, which can use its caches."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: str = "cpu", shard: str = "none", divide: str = "rows") -> Generator[Ranks]:
    """Join the processes started by ``torchrun``, or by SLURM with the same variables.

    Without a WORLD_SIZE above 1 the process is alone. On CUDA each process uses the device of its
    LOCAL_RANK, unless ``device`` names one. ``shard`` is as in ``shards_of``. ``divide`` is "rows"
    (each process reads its own rows) or "sequence" (a segment of every row). Raises UserError if an
    environment variable that torch needs is missing.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sequence = divide == "sequence"
    if shards_of(shard, world) > 1 and sequence:
        raise UserError(
            "--divide sequence does not work with --shard, because all processes gather the "
            "weights of a block at the same time; choose --divide rows or --shard none"
        )
    if world == 1:
        yield ALONE
        return
    if missing := [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {world} but {missing[0]} is not set; start the command with "
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
    """How many of ``world`` processes hold one model together.

    "none": 1, each has the whole model; "full": all; "hybrid": those of a machine (torchrun's
    LOCAL_WORLD_SIZE); or a number that divides ``world``. Raises UserError for anything else.

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
