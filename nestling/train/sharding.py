"""One model divided among processes by torch's ``fully_shard``, and whole again in files.

Every process keeps a part of each parameter, cut along its first dimension, with its gradient and
what the optimizer remembers of it; a block's whole parameters are there while it is computed, as
plain tensors, so that compiled forms and memories see what one process sees. How it is trained is
in ``nestling.train.pieces``.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models.hf import HopeForCausalLM
from nestling.models.in_context import signalled
from nestling.optim import Leveled
from nestling.rules.newton_schulz import part, whole
from nestling.train.pieces import Groups, Pieces

MESH = ("replicate", "shard")
UNUSED = "set_reduce_scatter_unused_params"  # of FSDPModule: gradients that some processes lack


class Divided:
    """A model divided over ``over`` processes, in as many copies as ``world`` holds of them.

    It is called as the model is, which stays the object it was; its parameters are others. Which
    of them have a gradient may differ from process to process, as in one process from step to step.
    Raises UserError where torch is too old.
    """

    def __init__(self, model: HopeForCausalLM, *, world: int, over: int, device: torch.device):
        if not hasattr(FSDPModule, UNUSED):
            raise UserError(
                f"--shard needs a later torch than {torch.__version__}, with FSDPModule.{UNUSED}; "
                "install one, or train with --shard none"
            )
        # nothing is written into what a block returns, and its states are views
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.model: Any = model
        sizes, names = ((over,), MESH[1:]) if over == world else ((world // over, over), MESH)
        mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
        self.group = mesh.get_group("shard")  # the processes that hold the model between them
        # what reads parameters of blocks from outside of them needs the whole model at once
        outside = bool(signalled(model)) or model.head_level is not None
        for module in (*([] if outside else model.body.each()), model):
            fully_shard(module, mesh=mesh)
            module.register_forward_hook(_own_memory, prepend=True)
        getattr(self.model, UNUSED)(True)
        self._used: set[str] = set()  # had a gradient here since the last step
        self._watched: dict[str, Tensor] = {}
        for prefix, module in _parts(model):
            module.register_forward_pre_hook(self._watch(prefix))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As the model's."""
        return self.model(*args, **options)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's."""
        return self.model.parameters()

    def _watch(self, prefix: str) -> Callable[[nn.Module, Any], None]:
        def watch(module: nn.Module, inputs: Any) -> None:
            for name, parameter in module.named_parameters(prefix):
                here = parameter.requires_grad and not isinstance(parameter, DTensor)
                if here and self._watched.get(name) is not parameter:
                    self._watched[name] = parameter
                    parameter.register_post_accumulate_grad_hook(self._note(name))

        return watch

    def _note(self, name: str) -> Callable[[Tensor], None]:
        return lambda _: self._used.add(name)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The length of gradients of which each process keeps a part."""
        square = torch.nn.utils.get_total_norm([part(g) for g in gradients]).square()
        distributed.all_reduce(square, group=self.group)
        return square.sqrt()

    def optimizer(self, groups: Groups, make: Callable[[Groups], Leveled]) -> Pieces:
        """What ``make`` builds for groups of the model's parameters, over pieces of them."""
        return Pieces(groups, make, self.group)

    @contextlib.contextmanager
    def gradients(self, *, last: bool) -> Generator[None]:
        """Around a forward and backward pass: gradients are exchanged in the last of a step."""
        self.model.set_requires_gradient_sync(last)
        yield
        if last:
            self._leave_out_unused()

    def _leave_out_unused(self) -> None:
        """Take away the gradients, zeros, of parameters that no process has used."""
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        flags = torch.tensor([float(name in self._used) for name in own])
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)  # on the CPU: waits for no device
        self._used.clear()
        for parameter, used in zip(own.values(), flags.tolist(), strict=True):
            if not used:
                parameter.grad = None


def _parts(model: nn.Module) -> list[tuple[str, Any]]:
    """The modules whose parameters are exchanged together, with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, FSDPModule)]


def _own_memory(module: nn.Module, inputs: Any, output: Any) -> Any:
    """What is remembered must not lie in parameters that are given back after the call."""
    own_parameters = (p for p in module.parameters() if not isinstance(p, DTensor))
    places = {p.untyped_storage().data_ptr() for p in own_parameters}

    def own(x: Tensor) -> Tensor:
        return x.clone() if x.numel() and x.untyped_storage().data_ptr() in places else x

    if isinstance(output, tuple):
        return map_state(own, output)
    cache = output.past_key_values
    if cache is not None:
        cache.states = map_state(own, cache.states)
    return output


def rest(model: nn.Module) -> None:
    """Have every process hold its part alone, as between two steps."""
    for _, module in _parts(model):
        module.reshard()


def gathered(tree: Any, *, keep: bool) -> Any:
    """A tree with whole tensors on the CPU where it had parts; None unless ``keep``.

    All processes call it with trees alike; one tensor at a time is whole where it is not kept.
    """
    if isinstance(tree, Tensor):
        x = whole(tree)
        return x.cpu() if keep and x is not tree else tree
    if isinstance(tree, Mapping):
        return {key: gathered(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return type(tree)(gathered(value, keep=keep) for value in tree)
    return tree


def outline(model: HopeForCausalLM) -> HopeForCausalLM:
    """A model of the same shapes and types without weights."""
    config: Any = model.config
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    with torch.device("meta"):
        found = HopeForCausalLM(config)
    for name, parameter in found.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return found


def whole_model(model: HopeForCausalLM, *, keep: bool) -> HopeForCausalLM | None:
    """A model of its own on the CPU with the weights of a divided one; None unless ``keep``."""
    rest(model)
    tensors = gathered(dict(model.named_parameters()) | dict(model.named_buffers()), keep=keep)
    if not keep:
        return None
    found = outline(model)
    found.load_state_dict(tensors, strict=False, assign=True)
    found.tie_weights()
    return found.train(model.training)
