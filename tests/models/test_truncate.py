"""Truncated back-propagation through the state of every memory."""

import pytest
import torch
from tiny_memories import WIDTH, build, draw, every_name
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.models import create
from nestling.models.block import Block

SMALL = {"hidden_size": 16, "num_heads": 2, "num_hidden_layers": 1, "vocab_size": 19}


def block(name: str, options: dict, truncate: int | None) -> Block:
    memory = build(name, options)
    made = Block(name, memory, hidden_size=WIDTH, norm_eps=1e-6, truncate=truncate)
    return made.double()


@every_name
def test_truncation_cuts_gradients_and_keeps_outputs(name, options):
    if name.startswith("cms_"):
        options = options | {"through": "full"}  # otherwise no gradient crosses a write anyway
    x = draw(2, 14, WIDTH).requires_grad_()
    whole, state = block(name, options, None)(x, None, Flow())
    free = torch.autograd.grad(whole[:, 12:].sin().sum(), x)[0]
    assert bool(free[:, :10].any()) == (state is not None)
    cut = block(name, options, 5)
    y, _ = cut(x, None, Flow())
    assert_close(y, whole)
    grad = torch.autograd.grad(y[:, 12:].sin().sum(), x)[0]
    assert not grad[:, :10].any()
    assert grad[:, 12:].any()
    # the remaining gradient is that of the last stretch from a given state
    with torch.no_grad():
        _, state = cut(x[:, :10], None, Flow())
    rest = x[:, 10:].detach().requires_grad_()
    y, _ = block(name, options, None)(rest, state, Flow())
    assert_close(grad[:, 10:], torch.autograd.grad(y[:, 2:].sin().sum(), rest)[0])


@pytest.mark.parametrize("objective", ["ntp", "teach"])
def test_next_token_levels_truncate_at_segment_ends(objective):
    options = {"cms_context.periods": (4, 8), "cms_context.objective": objective}
    pattern, ids = ("delta_net", "cms_context"), torch.arange(17)[None] % 19
    grads, losses = {}, {}
    for truncate in (None, 7, 8, {"delta_net": 8, "cms_context": 8}, {"cms_context": 8}):
        model = create("hope-tiny", pattern=pattern, truncate=truncate, **SMALL, **options)
        model = model.double().train()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3)
        embedded: list[torch.Tensor] = []
        model.backbone.embed_tokens.register_forward_hook(
            lambda _m, _i, out, seen=embedded: seen.append(out.requires_grad_())
        )
        y = model(ids).logits
        found = torch.autograd.grad(y[:, 9:12].sin().sum(), embedded, allow_unused=True)
        grads[str(truncate)] = [None if g is None else float(g.abs().sum()) for g in found]
        losses[str(truncate)] = y.detach()
    for name, y in losses.items():
        assert_close(y, losses["None"])
        before = [g for g in grads[name][:2] if g]
        assert bool(before) == (name in ("None", "{'cms_context': 8}")), (name, grads[name])
        assert any(grads[name][2:4])


def test_truncate_reaches_model_levels_and_config(tmp_path):
    model = create("hope-tiny", truncate={"self_titans": 3}, **SMALL)
    assert [b.truncate for b in model.backbone.each()] == [3, None]
    found = model.levels()
    assert "end after 3 tokens" in next(v.context for n, v in found.items() if n.endswith("M_k"))
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.truncate == {"self_titans": 3}


@pytest.mark.parametrize(
    ("truncate", "message"),
    [
        (0, "at least 1"),
        ({"self_titans": 0}, "at least 1"),
        ({"selftitans": 4}, "self_titans"),
        ({"cms": 4}, "has no state"),
        (True, "truncate must be"),
        ("4", "truncate must be"),
    ],
)
def test_invalid_truncate_is_refused(truncate, message):
    with pytest.raises(UserError, match=message):
        create("hope-tiny", truncate=truncate, **SMALL)
