"""A model sharded over processes by torch's ``fully_shard``, and gathered again for files.

Every process keeps a shard of each parameter, cut along the first dimension, with its gradient and
optimizer state. The parameters of a block are gathered, as plain tensors, while it is computed, so
compiled code and memories see the same as in a single process. ``nestling.train.pieces`` has the
optimizer.
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
UNUSED = "set_reduce_scatter_unused_params"  # of FSDPModule: some ranks may lack gradients


class Divided:
    """A model sharded over ``over`` processes, with ``world / over`` replicas.

    It is called like the model, which stays the same object with new parameters. Different
    processes, like different steps, may use different parameters. Raises UserError if torch is too
    old.
    """

    def __init__(self, model: HopeForCausalLM, *, world: int, over: int, device: torch.device):
        if not hasattr(FSDPModule, UNUSED):
            raise UserError(
                f"--shard needs a torch with FSDPModule.{UNUSED}, which {torch.__version__} lacks; "
                "install a later one, or train with --shard none"
            )
        # the outputs of a block are never modified, and its states are views
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.model: Any = model
        sizes, names = ((over,), MESH[1:]) if over == world else ((world // over, over), MESH)
        mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
        self.group = mesh.get_group("shard")  # the processes that hold one model together
        # code that reads the parameters of blocks from outside needs the whole model gathered
        outside = bool(signalled(model)) or model.head_level is not None
        for module in (*([] if outside else model.body.each()), model):
            fully_shard(module, mesh=mesh)
            module.register_forward_hook(_own_memory, prepend=True)
        getattr(self.model, UNUSED)(True)
        self._used: set[str] = set()  # parameters with a gradient here since the last step
        self._watched: dict[str, Tensor] = {}
        for prefix, module in _parts(model):
            module.register_forward_pre_hook(self._watch(prefix))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the model."""
        return self.model(*args, **options)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the model."""
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
        """The norm of sharded gradients."""
        square = torch.nn.utils.get_total_norm([part(g) for g in gradients]).square()
        distributed.all_reduce(square, group=self.group)
        return square.sqrt()

    def optimizer(self, groups: Groups, make: Callable[[Groups], Leveled]) -> Pieces:
        """The optimizer that ``make`` builds for groups of the model's parameters, over pieces."""
        return Pieces(groups, make, self.group)

    @contextlib.contextmanager
    def gradients(self, *, last: bool) -> Generator[None]:
        """A context for the forward and backward passes of a step; the last one sums gradients."""
        self.model.set_requires_gradient_sync(last)
        yield
        if last:
            self._leave_out_unused()

    def _leave_out_unused(self) -> None:
        """Drop the zero gradients of parameters that no process has used."""
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        flags = torch.tensor([float(name in self._used) for name in own])
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)  # on the CPU: waits for no device
        self._used.clear()
        for parameter, used in zip(own.values(), flags.tolist(), strict=True):
            if not used:
                parameter.grad = None


def _parts(model: nn.Module) -> list[tuple[str, Any]]:
    """The modules whose parameters are gathered together, with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, FSDPModule)]


def _own_memory(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Copy states that share storage with parameters, which are freed after the call."""
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
    """Free everything but the local shards, as between two steps."""
    for _, module in _parts(model):
        module.reshard()


def gathered(tree: Any, *, keep: bool) -> Any:
    """Gather the sharded tensors of a tree on the CPU; returns None unless ``keep``.

    All processes call this with trees of the same structure. Without ``keep`` only one tensor at a
    time is whole.
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
    """A model of the same shapes and dtypes without weights."""
    config: Any = model.config
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    with torch.device("meta"):
        found = HopeForCausalLM(config)
    for name, parameter in found.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return found


def whole_model(model: HopeForCausalLM, *, keep: bool) -> HopeForCausalLM | None:
    """A separate model on the CPU with the weights of a sharded one; None unless ``keep``."""
    rest(model)
    tensors = gathered(dict(model.named_parameters()) | dict(model.named_buffers()), keep=keep)
    if not keep:
        return None
    found = outline(model)
    found.load_state_dict(tensors, strict=False, assign=True)
    found.tie_weights()
    return found.train(model.training)
