"""Shared code of optimizers: finite gradients, batches of tensors, parameter groups."""

import math

import pytest
import torch
from torch import nn

from nestling.core import native
from nestling.core.error import UserError
from nestling.optim import M3, DeltaMomentum, Leveled, Written, param_groups
from nestling.optim.base import BLOCK, finite, lengths
from nestling.optim.ruled import batches
from nestling.rules import Momentum, Muon, NonlinearMomentum


@pytest.mark.parametrize("switch", ["1", "0"])
def test_finite_gradients_with_overflowing_squares_are_accepted(switch, monkeypatch):
    monkeypatch.setenv(native.SWITCH, switch)

    def good(*gradients):
        return finite(gradients, lengths(gradients))

    assert good(torch.full((4,), 1e30)) and good() and good(torch.zeros(0))
    assert good(torch.ones(2), torch.full((4,), 1e200, dtype=torch.float64))
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not good(torch.ones(3), torch.tensor([1e30, value]))
        assert not good(torch.tensor([1e200, value], dtype=torch.float64))


def test_elementwise_batches_are_row_views_that_cover_everything():
    big, small = torch.zeros(700, 3, 500), torch.zeros(5)
    for first, second in batches(Momentum(), [big, small], [big.clone(), small.clone()]):
        assert first[0].shape == second[0].shape
        first[0].add_(1)
    assert torch.equal(big, torch.ones_like(big)) and torch.equal(small, torch.ones(5))
    sizes = [first[0].shape for (first,) in batches(Momentum(), [big])]
    assert len(sizes) > 1 and all(math.prod(size) <= BLOCK for size in sizes)
    ((first, second),) = [[f[0], f[1]] for (f,) in batches(Muon(), [small, small])]
    assert first is second is small


def test_passing_a_module_is_a_type_error():
    with pytest.raises(TypeError, match="param_groups"):
        M3(nn.Linear(2, 2))


class Odd(nn.Module):
    """A tied head, a depth-wise and a full convolution, attention, raw parameters."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.depthwise, self.full = nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.classifier, self.tied = nn.Linear(4, 2), nn.Linear(4, 9, bias=False)
        self.tied.weight = self.embed.weight
        self.initial = nn.Parameter(torch.zeros(2, 4, 4))
        self.start = nn.Parameter(torch.zeros(3, 4))


def test_param_groups_split_by_role():
    module = Odd()
    names = {id(p): name for name, p in module.named_parameters()}
    groups = {g["name"]: g for g in param_groups(module, weight_decay=0.1)}
    assert {k: {names[id(p)] for p in g["params"]} for k, g in groups.items()} == {
        "matrices": {"full.weight", "attention.in_proj_weight", "attention.out_proj.weight"},
        "embeddings": {"embed.weight"},
        "heads": {"classifier.weight", "classifier.bias"},
        "vectors": {"depthwise.weight", "depthwise.bias", "full.bias", "attention.in_proj_bias"}
        | {"attention.out_proj.bias", "initial", "start"},
    }
    assert [g["weight_decay"] for g in groups.values()] == [0.1, 0.0, 0.0, 0.1]
    optimizer = M3(groups.values(), lr=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_param_groups_without_parameters_are_refused():
    with pytest.raises(TypeError, match="module"):
        param_groups(Odd().parameters())
    with pytest.raises(UserError, match="no parameter"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))


def test_unused_options_are_refused_and_old_states_load():
    weights = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))]
    with pytest.raises(UserError, match="preconditioner_beta=0.5 has no effect"):
        DeltaMomentum(weights, preconditioner_beta=0.5)
    with pytest.raises(UserError, match="preconditioner_every=2 has no effect"):
        DeltaMomentum([{"params": weights, "preconditioner_every": 2}])
    # one group that reads it is enough
    groups = [{"params": weights[:1], "preconditioner": "covariance"}, {"params": weights[1:]}]
    DeltaMomentum(groups, preconditioner_beta=0.5)
    # options given to all groups are not checked per group when groups are added again
    given = [{"params": weights[:1]}, {"params": weights[1:], "orthogonal": False}]
    assert len(Leveled(M3(given, ns_precision="float32"), tokens_per_step=1).param_groups) == 2
    optimizer = DeltaMomentum(weights)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["preconditioner_beta"] = 0.5
    optimizer.load_state_dict(saved)
    with pytest.raises(UserError, match="ns_steps has no effect with output='sign'"):
        Written(weights, rule=NonlinearMomentum(output="sign", ns_steps=3))
