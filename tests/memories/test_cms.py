"""The chain of levels: order, periods, and the reduction to a feed-forward block."""

import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.memories.cms.chain import CMS
from nestling.memories.mlp import MLP, default_intermediate_size
from nestling.models.config import memory_config
from nestling.models.factory import configure

WIDTH = 16


def build(**options) -> CMS:
    memory = CMS(CMS.Config(**options), hidden_size=WIDTH, num_heads=2).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    return memory


def text(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_equation_70_levels_in_series_with_residuals():
    memory, x = build(periods=(2, 4, 16)), text(2, 5, WIDTH)
    expected = x
    for level in memory.chain:
        scale = (expected.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        h = expected * scale * level.norm.weight
        gate, up = h @ level.network.gate.weight.T, h @ level.network.up.weight.T
        expected = expected + (gate * gate.sigmoid() * up) @ level.network.output.weight.T
    assert_close(memory(x)[0], expected)


def test_single_level_chain_is_a_feed_forward_block():
    chain, x = build(periods=(1,), intermediate_size=24), text(2, 5, WIDTH)
    block = MLP(MLP.Config(intermediate_size=24), hidden_size=WIDTH, num_heads=2).double()
    block.network.load_state_dict(chain.chain[0].network.state_dict())
    assert_close(chain(x)[0], x + block(chain.chain[0].norm(x))[0])


def test_every_parameter_belongs_to_one_level_fast_to_slow():
    memory = build(periods=(4, 8, 64))
    trained = memory.trained_levels()
    assert [level.period for level in trained] == [4, 8, 64]
    ids = [id(p) for level in trained for p in level.parameters]
    assert sorted(ids) == sorted(id(p) for p in memory.parameters())
    for level, box in zip(trained, memory.levels(), strict=True):
        assert sum(p.numel() for p in level.parameters) == box.parameters


def test_levels_split_the_width_of_one_network():
    widths = [level.network.up.out_features for level in build(periods=(4, 8)).chain]
    assert sum(widths) == default_intermediate_size(WIDTH)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"periods": ()}, "periods"),
        ({"periods": (0, 4)}, "periods"),
        ({"periods": (8, 4)}, "dividing"),
        ({"periods": (4, 4)}, "dividing"),
        ({"periods": (4, 6)}, "dividing"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"shares": (0.1, 0.1)}, "each of the 1 levels"),
        ({"shares": (1.5,)}, "fraction"),
        ({"periods": (4, 8, 16), "shares": (None, -0.1)}, "fraction"),
        ({"periods": (4,), "shares": (0.1,)}, "each of the 0 levels"),
    ],
)
def test_invalid_options_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        CMS.Config(**options)


def test_removed_single_valued_option_still_loads():
    assert memory_config("cms", {"regime": "training", "periods": [4, 8]}).periods == (4, 8)
    same = configure("hope-tiny", **{"cms.regime": "training"}).memory_configs()
    assert same == configure("hope-tiny").memory_configs()
    for name in ("regime", "cms.regime"):
        with pytest.raises(UserError, match="cms.regime has been removed.*cms_context"):
            configure("hope-tiny", **{name: "context"})
