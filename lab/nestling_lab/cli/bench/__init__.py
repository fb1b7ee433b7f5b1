"""nestling bench: trained models in use, and the cost of everything."""

from typing import Annotated

import tyro

from nestling_lab.cli.bench.compare import Compare
from nestling_lab.cli.bench.decode import Decode
from nestling_lab.cli.bench.gpu import Gpu
from nestling_lab.cli.bench.kill import Kill
from nestling_lab.cli.bench.memory import Memory
from nestling_lab.cli.bench.ops import Ops
from nestling_lab.cli.bench.optim import Optim
from nestling_lab.cli.bench.serve import Serve
from nestling_lab.cli.bench.stability import Stability
from nestling_lab.cli.bench.stream import Stream
from nestling_lab.cli.bench.targets import Targets
from nestling_lab.cli.bench.train import Train

Command = (
    Annotated[Stream, tyro.conf.subcommand("stream")]
    | Annotated[Stability, tyro.conf.subcommand("stability")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Ops, tyro.conf.subcommand("ops")]
    | Annotated[Kill, tyro.conf.subcommand("kill")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Memory, tyro.conf.subcommand("memory")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Gpu, tyro.conf.subcommand("gpu")]
    | Annotated[Optim, tyro.conf.subcommand("optim")]
    | Annotated[Targets, tyro.conf.subcommand("targets")]
)
