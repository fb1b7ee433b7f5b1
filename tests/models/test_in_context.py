"""CMS levels written from the next-token loss: reference loop and conformance."""

import pytest
import torch
from tolerances import assert_close
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nestling.core.error import UserError
from nestling.models import MemoryCache, create
from nestling.models.hf import HopeForCausalLM

SHAPE = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
}
LEVELS = {"periods": (2, 4), "intermediate_size": 5}
OUTSIDE = pytest.mark.parametrize("objective", ["ntp", "teach"])
VARIANTS = pytest.mark.parametrize("name", ["cms_context", "cms_nested", "cms_headwise"])


def build(objective: str = "ntp", **options) -> HopeForCausalLM:
    """Attention and in-context levels, weights large enough that writes show."""
    values = SHAPE | LEVELS | {"learning_rate": 0.3, "clip": 2.0, "through": "full"} | options
    pattern = values.pop("pattern", ("attention", "cms_context"))
    model = create("transformer-tiny", pattern=pattern, objective=objective, **values).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.train()


def static(model: HopeForCausalLM) -> HopeForCausalLM:
    """The same weights, with levels that are never written."""
    other = create("transformer-tiny", pattern=("attention", "cms"), **SHAPE, **LEVELS).double()
    other.load_state_dict(model.state_dict(), strict=False)
    return other.train()


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(19, shape, generator=torch.Generator().manual_seed(seed))


def logits_of(model, ids, **more):
    return model(ids, **more).logits


MATRICES = ("gate", "up", "output")


def reference(model: HopeForCausalLM, ids: torch.Tensor, objective: str) -> torch.Tensor:
    """One row [T], segment by segment, with a separate gradient for every token."""
    plain, config = static(model), model.backbone.blocks[1].memory.config
    own = dict(model.named_parameters())
    names = {
        (block, level): [
            f"backbone.blocks.{block}.memory.chain.{level}.network.{m}.weight" for m in MATRICES
        ]
        for block in (1, 3)
        for level in range(len(config.periods))
    }
    start = {key: [own[name] for name in names[key]] for key in names}
    theta = {key: list(values) for key, values in start.items()}
    gathered, read = {key: [] for key in names}, {key: [] for key in names}
    cache, rows, fast = plain.new_cache(), [], config.periods[0]
    for begin in range(0, len(ids), fast):
        theta = {key: [w * 1 for w in values] for key, values in theta.items()}
        given = {name: own[name] for name, _ in plain.named_parameters()}
        given |= {n: w for key in names for n, w in zip(names[key], theta[key], strict=True)}
        inputs, hooks = {}, []
        for block, level in names:
            network = plain.backbone.blocks[block].memory.chain[level].network

            def keep(module, args, key=(block, level), inputs=inputs):
                inputs[key] = args[0]

            hooks.append(network.register_forward_pre_hook(keep))
        part = ids[None, begin : begin + fast]
        options = {"past_key_values": cache, "use_cache": True}
        out = torch.func.functional_call(plain, given, (part,), options).logits[0]
        for hook in hooks:
            hook.remove()
        rows.append(out)
        for t in range(begin, begin + fast):
            if begin + fast >= len(ids):
                break
            place = t - begin
            for key in names:
                gate, up, output = theta[key]
                h = inputs[key][0, place]
                z = gate @ h
                hidden = z * z.sigmoid() * (up @ h)
                read[key].append((h, h, hidden))
                if objective == "ntp":
                    loss = functional.cross_entropy(out[place], ids[t + 1])
                else:
                    error = out[place].softmax(-1) - functional.one_hot(ids[t + 1], 19)
                    signal = (error @ model.lm_head.weight).detach()
                    loss = signal @ (output @ hidden)
                gathered[key].append(torch.autograd.grad(loss, theta[key], create_graph=True))
        for key in names:
            if gathered[key] and (begin + fast) % config.periods[key[1]] == 0:
                level = model.backbone.blocks[key[0]].memory.chain[key[1]]
                pairs = gathered[key], read[key]
                theta[key] = written(theta[key], start[key], *pairs, config, level.rate())
                gathered[key], read[key] = [], []
    return torch.cat(rows)


def written(theta, start, gradients, inputs, config, rate):
    mean = [torch.stack(g).mean(0) for g in zip(*gradients, strict=True)]
    norm = sum(g.square().sum() for g in mean).sqrt()
    scale = config.clip / norm if norm > config.clip else 1
    away = [w - rate * scale * g - s for w, g, s in zip(theta, mean, start, strict=True)]
    if config.rule == "dgd":
        mean = [sum(torch.outer(x, x) for x in xs) / len(xs) for xs in zip(*inputs, strict=True)]
        eye = [torch.eye(len(g), dtype=g.dtype) for g in mean]
        away = [a @ torch.linalg.inv(i + rate * g) for a, i, g in zip(away, eye, mean, strict=True)]
    radius = config.trust * sum(s.square().sum() for s in start).sqrt()
    reach = sum(a.square().sum() for a in away).sqrt()
    return [
        s + a * (radius / reach if reach > radius else 1) for s, a in zip(start, away, strict=True)
    ]


@OUTSIDE
@pytest.mark.parametrize("rule", ["gradient", "dgd"])
def test_matches_reference_loop(objective, rule):
    """Outputs, and outer gradients through all writes."""
    model, ids = build(objective, rule=rule), tokens(2, 11)
    logits = logits_of(model, ids)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.stack([reference(model, row, objective) for row in ids])
    assert_close(logits, expected)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4)).double()
    values = [p for name, p in model.named_parameters() if "target" not in name]
    values = [p for p in values if p.ndim]
    ours = torch.autograd.grad((logits * weight).sum(), values)
    loop = torch.autograd.grad((expected * weight).sum(), values)
    for one, other in zip(ours, loop, strict=True):
        assert_close(one, other)


@OUTSIDE
def test_any_split_equals_the_whole(objective):
    model, ids = build(objective).eval(), tokens(2, 13)
    with torch.no_grad():
        whole = logits_of(model, ids)
        for cuts in (range(1, 13), (5,), (4, 8), (3, 4, 9)):
            cache, parts, edges = None, [], [0, *cuts, 13]
            for a, b in zip(edges[:-1], edges[1:], strict=True):
                out = model(ids[:, a:b], past_key_values=cache, use_cache=True)
                cache, parts = out.past_key_values, [*parts, out.logits]
            assert_close(torch.cat(parts, dim=1), whole)


@OUTSIDE
def test_gradients_do_not_change_outputs(objective):
    model, ids = build(objective), tokens(2, 13)
    with torch.no_grad():
        quiet = logits_of(model, ids)
    assert_close(logits_of(model, ids), quiet)
    assert not torch.allclose(quiet, logits_of(static(model), ids))


@OUTSIDE
def test_rate_zero_equals_the_static_model(objective):
    model, ids = build(objective, learning_rate=0.0), tokens(2, 13)
    assert_close(logits_of(model, ids), logits_of(static(model), ids))


@VARIANTS
@OUTSIDE
def test_every_variant_splits_and_learns(objective, name):
    model, ids = build(objective, pattern=("attention", name)).eval(), tokens(2, 13)
    with torch.no_grad():
        whole = logits_of(model, ids)
        cache, parts, edges = None, [], [0, 3, 4, 9, 10, 11, 13]
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            out = model(ids[:, a:b], past_key_values=cache, use_cache=True)
            cache, parts = out.past_key_values, [*parts, out.logits]
    assert_close(torch.cat(parts, dim=1), whole)
    rates = [p for n, p in model.named_parameters() if n.endswith("log_rate")]
    with torch.no_grad():
        for rate in rates:
            rate.fill_(-1e9)
        assert not torch.allclose(logits_of(model, ids), whole, atol=1e-6)


def test_nested_reset_happens_at_slow_level_writes():
    model, ids = build(pattern=("attention", "cms_nested")).eval(), tokens(1, 13)
    cache = None
    with torch.no_grad():
        for t in range(13):
            cache = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).past_key_values
            fast = cache.states[1][0]
            # token t is the first that is read with what was learned of those before it
            assert fast.own.level.writes.tolist() == [t // 2 % 2]
            assert any(m.any() for m in fast.own.level.moved) == (t // 2 % 2 == 1)
            assert any(s.any() for s in fast.shift) == (t >= 4)


@OUTSIDE
def test_causality(objective):
    """Each row is changed from a different position on."""
    model, ids = build(objective).eval(), tokens(4, 12)
    later = torch.arange(12) >= torch.tensor([1, 4, 5, 9])[:, None]
    other = torch.where(later, tokens(4, 12, seed=2), ids)
    with torch.no_grad():
        one, two = logits_of(model, other)[~later], logits_of(model, ids)[~later]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@OUTSIDE
def test_rows_of_any_phase_are_independent(objective):
    """Documents starting anywhere, with padding on the left and between, for any split."""
    model = build(objective).eval()
    ids = tokens(3, 15)
    mask = torch.ones(3, 15, dtype=torch.bool)
    mask[1, :3], mask[2, 4:6] = False, False
    reset = torch.zeros(3, 15, dtype=torch.bool)
    reset[0, 5], reset[2, 6], reset[2, 13] = True, True, True
    places = [(0, range(5)), (0, range(5, 15)), (1, range(3, 15)), (2, range(4)), (2, range(6, 13))]
    with torch.no_grad():
        alone = [logits_of(model, ids[row : row + 1, list(span)]) for row, span in places]
        for cuts in ([], [4, 5, 9], [1, 7, 8, 14]):
            cache, parts, edges = None, [], [0, *cuts, 15]
            for a, b in zip(edges[:-1], edges[1:], strict=True):
                out = model(
                    ids[:, a:b],
                    attention_mask=mask[:, a:b],
                    reset=reset[:, a:b],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache, parts = out.past_key_values, [*parts, out.logits]
            logits = torch.cat(parts, dim=1)
            for (row, span), expected in zip(places, alone, strict=True):
                assert_close(logits[row : row + 1, list(span)], expected)


def test_levels_change_only_at_multiples_of_their_period():
    model, ids = build().eval(), tokens(1, 13)
    cache, before = None, None
    with torch.no_grad():
        for t in range(13):
            cache = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).past_key_values
            now = [own.level for own in cache.states[1]]
            if before is not None:
                for period, old, new in zip((2, 4), before, now, strict=True):
                    same = all(map(torch.equal, old.moved, new.moved))
                    # token t is the first that is read with what was learned of those before it
                    assert same == (t == 0 or t % period != 0)
            before = now


def test_saved_memory_continues_identically(tmp_path):
    model, ids = build().eval(), tokens(2, 17)
    with torch.no_grad():
        whole = logits_of(model, ids)
        cache = model(ids[:, :7], use_cache=True).past_key_values
        again = MemoryCache.load(cache.save(tmp_path / "memory.safetensors"), model)
        rest = logits_of(model, ids[:, 7:], past_key_values=again)
    assert_close(rest, whole[:, 7:])


def test_generation_matches_full_forward():
    model, ids = build().eval(), tokens(1, 6)
    text = model.generate(ids, max_new_tokens=7, do_sample=False)
    with torch.no_grad():
        best = logits_of(model, text)[:, 5:-1].argmax(-1)
    assert text[:, 6:].tolist() == best.tolist()


def test_meta_gradients_match_finite_differences():
    model, ids = build(num_hidden_layers=1, learning_rate=0.1), tokens(1, 7)
    names = [name for name, p in model.named_parameters() if "target" not in name]
    values = [dict(model.named_parameters())[n].detach().clone().requires_grad_() for n in names]

    def read(*parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, given, (ids,)).logits

    assert torch.autograd.gradcheck(read, values, fast_mode=True)


def test_meta_gradients_flow_through_self_modifying_titans():
    """The inner gradients flow through the memory below the levels, whose own are second order."""
    model = over(through="full")
    ids, generator = tokens(2, 9), torch.Generator().manual_seed(5)
    weight = torch.randn(2, 9, 19, generator=generator).double()
    values = {n: p for n, p in model.named_parameters() if "target" not in n}

    def loss(model):
        return (logits_of(model, ids) * weight).sum()

    grads = torch.autograd.grad(loss(model), list(values.values()))
    way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in values.values()]
    found, step = {}, 1e-5
    for place in (1, -1, 2, -2):
        with torch.no_grad():
            for p, d in zip(values.values(), way, strict=True):
                p.add_(place * step * d)
            found[place] = float(loss(model))
            for p, d in zip(values.values(), way, strict=True):
                p.sub_(place * step * d)
    numeric = (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * step)
    analytic = sum(float((g * d).sum()) for g, d in zip(grads, way, strict=True))
    assert abs(analytic - numeric) <= 1e-6 * abs(numeric)
    # and the second-order part is not negligible
    first = over(through="first")
    same = dict(first.named_parameters())
    lesser = torch.autograd.grad(loss(first), [same[name] for name in values])
    pairs = zip(lesser, grads, strict=True)
    assert any((a - b).norm() > 1e-3 * b.norm() for a, b in pairs)


def over(**levels) -> HopeForCausalLM:
    """In-context levels above self-modifying Titans."""
    values = {k: v for k, v in SHAPE.items() if k != "num_kv_heads"}
    values |= {"self_titans.period": 4, "self_titans.projection_period": 2}
    values |= {f"cms_context.{name}": value for name, value in (LEVELS | levels).items()}
    model = create("hope-tiny", pattern=("self_titans", "cms_context"), **values).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.train()


def test_hopes_own_levels_compute_the_same_in_both_orders():
    ids = tokens(2, 9)
    full = over(through="full")
    with torch.no_grad():
        quiet = logits_of(full, ids)
    assert_close(logits_of(full, ids), quiet)
    assert_close(logits_of(over(through="first"), ids), quiet)
    full.gradient_checkpointing_enable()
    again = over(through="full")
    results = []
    for model in (full, again):
        model(ids, labels=ids).loss.backward()
        results.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*results, strict=True):
        assert_close(one, other)


def test_memory_without_second_derivatives_needs_first_order(monkeypatch):
    from nestling.core.gradient import once
    from nestling.memories.self_titans import chunk

    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once("the sine", "take another")
        def backward(ctx, *grads):
            return (grads[0] * ctx.saved_tensors[0].cos(),)

    monkeypatch.setattr(chunk, "unit", First.apply)
    ids = tokens(2, 9)
    with pytest.raises(UserError, match='through="first"'):
        logits_of(over(through="full"), ids)
    model = over(through="first")
    loss = model(ids, labels=ids).loss
    loss.backward()
    network = model.backbone.blocks[1].memory.chain[0].network
    assert network.gate.weight.grad.abs().max() > 0


def test_inputs_embeds_without_ids_are_refused():
    model = build()
    with pytest.raises(UserError, match="input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 8).double())


def test_empty_input_changes_nothing():
    model, ids = build().eval(), tokens(2, 9)
    with torch.no_grad():
        whole = logits_of(model, ids)
        cache = model(ids[:, :5], use_cache=True).past_key_values
        cache = model(ids[:, :0], past_key_values=cache, use_cache=True).past_key_values
        assert_close(logits_of(model, ids[:, 5:], past_key_values=cache), whole[:, 5:])
