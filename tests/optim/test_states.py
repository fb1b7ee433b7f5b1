"""State of a parameter of another size is refused before anything changes."""

import copy

import pytest
import torch
from torch import nn

from nestling.core.error import UserError
from nestling.optim import DeltaMomentum, Leveled
from nestling.optim.build import build, optimizer_names

LOOKED_UP = torch.tensor([[1, 4], [0, 1]])


class Net(nn.Module):
    """An embedding and a matrix of given sizes."""

    def __init__(self, rows: int, shape: tuple[int, int]):
        super().__init__()
        self.table, self.map = nn.Embedding(rows, 3), nn.Linear(*reversed(shape), bias=False)

    def forward(self) -> torch.Tensor:
        x = torch.linspace(-1, 1, 2 * self.map.in_features).view(2, -1)
        return self.table(LOOKED_UP).square().sum() + (self.map(x) - 1).square().sum()


def made(name: str, rows: int = 97, shape: tuple[int, int] = (6, 4), slow: bool = False):
    """A network and its optimizer after a step, and after another one that is accumulated."""
    net = Net(rows, shape)
    groups = [{"params": [net.table.weight]}, {"params": [net.map.weight]}]
    if slow:
        groups[1]["period"] = 24
    optimizer = build(name, net, groups, lr=1e-3)
    optimizer = Leveled(optimizer, tokens_per_step=8) if slow else optimizer
    for _ in range(2 + 2 * slow):
        stepped(net, optimizer)
    return net, optimizer


def stepped(net: Net, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net().backward()
    optimizer.step()


def values(net: Net) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def tensors(x) -> list[torch.Tensor]:
    """All in a state dict, in order."""
    if isinstance(x, torch.Tensor):
        return [x]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def unchanged(net: Net, before: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, net.parameters(), before))


REMEMBERING = [name for name in optimizer_names() if name not in ("sgd", "gradient", "delta_gd")]
# another number of rows, transposed, and sizes that torch would broadcast
OTHERS = [(98, (6, 4)), (96, (6, 4)), (97, (4, 6)), (97, (1, 4))]


def fits(name: str) -> bool:
    """Whether the optimizer keeps one number per tensor, whatever its size."""
    return name == "deep_momentum"


@pytest.mark.parametrize("name", REMEMBERING)
@pytest.mark.parametrize("slow", [False, True])
def test_loading_state_of_other_shapes_is_refused(name, slow):
    net, optimizer = made(name, slow=slow)
    before = tensors(copy.deepcopy(optimizer.state_dict()))
    for rows, shape in OTHERS:
        _, other = made(name, rows, shape, slow=slow)
        if fits(name) and not (slow and shape != (6, 4)):
            continue
        with pytest.raises(UserError, match=r"parameter [01] is .*needs"):
            optimizer.load_state_dict(other.state_dict())
        found = tensors(optimizer.state_dict())
        assert all(map(torch.equal, found, before)) and len(found) == len(before)
    stepped(net, optimizer)


@pytest.mark.parametrize("name", REMEMBERING)
@pytest.mark.parametrize("size", [(98, 3), (96, 3), (97, 1)])
def test_resized_parameter_is_refused(name, size):
    net, optimizer = made(name)
    net.table.weight.data = torch.ones(size)
    with pytest.raises(UserError, match=r"the gradient of parameter 0 is \[97, 3\]"):
        optimizer.step()
    optimizer.zero_grad()
    net().backward()
    before = values(net)
    if not fits(name):
        with pytest.raises(UserError, match=r"parameter 0 is \[97, 3\].*state\.pop"):
            optimizer.step()
        assert unchanged(net, before)
        optimizer.state.pop(net.table.weight)
    optimizer.step()
    assert not unchanged(net, before)


@pytest.mark.parametrize("name", REMEMBERING)
def test_parameter_on_another_device_is_refused(name):
    net, optimizer = made(name)
    state = optimizer.state[net.map.weight]
    part = next(key for key, x in state.items() if key != "step" and x is not None)
    state[part] = torch.empty(state[part].shape, device="meta")
    before = values(net)
    with pytest.raises(UserError, match=r"parameter 1 is on meta"):
        optimizer.step()
    assert unchanged(net, before)


def kept(optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of the first parameter's state tensors."""
    return set(optimizer.state[optimizer.param_groups[0]["params"][0]])


@pytest.mark.parametrize("name", REMEMBERING)
def test_loading_state_of_another_optimizer_is_refused(name):
    net, optimizer = made(name)
    for other in REMEMBERING:
        _, given = made(other)
        if kept(given) == kept(optimizer):
            continue
        with pytest.raises(UserError, match="another optimizer"):
            optimizer.load_state_dict(given.state_dict())
    stepped(net, optimizer)


def test_gathered_gradients_starts_and_inputs_are_checked():
    """Accumulated gradients and starts of Leveled; captured inputs of a slow level of DeltaGD."""
    _, other = made("delta_gd", shape=(6, 5), slow=True)
    net, optimizer = made("delta_gd", slow=True)
    with pytest.raises(UserError, match=r"gathered gradient of parameter 1 is \[6, 5\]"):
        optimizer.load_state_dict(other.state_dict())
    wrong = {**other.state_dict(), "sums": {}}
    with pytest.raises(UserError, match=r"inputs of parameter 1 is \[1, 5, 5\]"):
        optimizer.load_state_dict(wrong)
    for part in ("sums", "starts"):
        with pytest.raises(UserError, match="more than 2 parameters"):
            optimizer.load_state_dict({**optimizer.state_dict(), part: {"7": torch.ones(1)}})
    with pytest.raises(UserError, match="start of parameter 0"):
        optimizer.load_state_dict({**optimizer.state_dict(), "starts": {"0": torch.ones(97, 1)}})
    net.map.weight.data = torch.ones(1, 4)
    net.map.weight.grad = None
    with pytest.raises(UserError, match=r"gathered gradient of parameter 1 is \[6, 4\]"):
        optimizer.step()


def test_errors_use_parameter_names_when_given():
    net = Net(97, (6, 4))
    optimizer = DeltaMomentum(net.named_parameters(), lr=1e-3)
    stepped(net, optimizer)
    _, other = made("delta_momentum", 98)
    groups = [{**other.state_dict()["param_groups"][0], "params": [0, 1]}]
    with pytest.raises(UserError, match=r"'m' of table.weight is \[98, 3\]"):
        optimizer.load_state_dict({**other.state_dict(), "param_groups": groups})


@pytest.mark.parametrize("name", REMEMBERING)
def test_deepcopy_checks_shapes_too(name):
    net, optimizer = made(name)
    optimizer = copy.deepcopy(optimizer)
    weight = optimizer.param_groups[0]["params"][0]
    weight.data, weight.grad = torch.ones(98, 3), torch.ones(98, 3)
    if not fits(name):
        with pytest.raises(UserError, match="parameter 0"):
            optimizer.step()
