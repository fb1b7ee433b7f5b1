"""Small deep memories whose gates and writes are far from their limits, and comparisons."""

import torch

WIDTH, HEADS = 8, 2


def build(kind, seed=0, hidden_size=WIDTH, strong=True, dtype=torch.float64, **options):
    narrow = {} if options.get("layers") == 1 else {"expansion": 2}
    config = kind.Config(**{"period": 4, **narrow, **options})
    module = kind(config, hidden_size=hidden_size, num_heads=HEADS).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    module.init_weights(generator)
    if strong:
        with torch.no_grad():
            module.projection.weight.normal_(0, 0.5, generator=generator)
            module.output.weight.normal_(0, 0.7, generator=generator)
            for name, parameter in module.named_parameters():
                if name.endswith("_bias"):
                    parameter.fill_(1.0 if name == "alpha_bias" else 0.0)
                elif name.endswith("_weight") or name.startswith("initial"):
                    parameter.normal_(0, 0.5, generator=generator)
    return module


def sequence(length, seed=1, batch=2, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


def assert_same(module, fast, slow, x):
    """Outputs, and the gradients of every parameter and of the input, to 1e-9."""
    names = ["x", *(n for n, _ in module.named_parameters())]
    wanted = [x, *module.parameters()]
    weights = torch.linspace(-1, 1, fast.numel(), dtype=fast.dtype).view_as(fast)
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    grads = [torch.autograd.grad((y * weights).sum(), wanted) for y in (fast, slow)]
    for name, got, want in zip(names, *grads, strict=True):
        assert want.norm() > 0, name
        assert (got - want).norm() <= 1e-9 * want.norm(), name


def assert_same_state(module, state, rows):
    """Weights, anchors, momenta and counts against the reference loops, to 1e-9."""
    base = module.base()
    for row, heads in enumerate(rows):
        for h, head in enumerate(heads):
            assert state.count[row] == head.count
            for layer in range(len(state.weight)):
                start = 0 if base is None else base[layer][h]
                pairs = [
                    (state.weight[layer][row, h] + start, head.weight[layer]),
                    (state.anchor[layer][row, h] + start, head.anchor[layer]),
                ]
                if module.momentum:
                    pairs.append((state.momentum[layer][row, h], head.momentum[layer]))
                for got, want in pairs:
                    assert (got - want).norm() <= 1e-9 * want.norm()
