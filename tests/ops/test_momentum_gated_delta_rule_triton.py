"""The Triton form equals the fold of the step: on CUDA compiled, on a CPU in Triton's interpreter.

Needs the extra `kernels`: make test-kernels.
"""

from itertools import product

import pytest
import torch
from tolerances import BFLOAT16_RELATIVE_RMS, FLOAT32_RELATIVE_RMS, relative_rms

from nestling.ops.momentum_gated_delta_rule import OP, DeltaState, momentum_gated_delta_rule

pytest.importorskip("triton", reason="needs the extra kernels: make test-kernels")
CUDA = torch.cuda.is_available()
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(CUDA, reason="compiled here: pytest -m gpu")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
# every option compiles a separate kernel, which takes minutes
EVERY_DEVICE = [DEVICES[0], pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.slow])]
LIMIT = {torch.float32: FLOAT32_RELATIVE_RMS, torch.bfloat16: BFLOAT16_RELATIVE_RMS}


def state_of(tokens, dtype, seed=9):
    generator = torch.Generator().manual_seed(seed)
    b, _, h, v = tokens["w"].shape
    shape = (b, h, v, tokens["k"].shape[-1])
    return DeltaState(*(torch.randn(shape, generator=generator).to(dtype) for _ in range(2)))


def results(form, tokens, *, dtype, device, chunk_size=16, read="post", flags=None):
    """Output, final state and every gradient, for the same cotangents."""
    wide = torch.promote_types(dtype, torch.float32)
    leaves = {n: x.to(device, dtype).requires_grad_() for n, x in tokens.items()}
    state = DeltaState(*(x.to(device).requires_grad_() for x in state_of(tokens, wide)))
    flags = {n: x.to(device) for n, x in (flags or {}).items()}
    if form == "sequential":
        y, end = OP.sequential(leaves | flags, state=state, read=read)
    else:
        y, end = OP.triton(**leaves, **flags, state=state, read=read, chunk_size=chunk_size)
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in (y, *end))
    wanted = leaves | {"weight": state.weight, "momentum": state.momentum}
    grads = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    named = dict(zip(wanted, grads, strict=True))
    return {"y": y, "weight_end": end.weight, "momentum_end": end.momentum} | {
        f"gradient of {name}": grad for name, grad in named.items()
    }


def assert_parity(tokens, *, device, dtype=torch.float32, **options):
    """Against the step in float64, from the inputs as the kernel gets them."""
    tokens = {n: x.to(dtype).double() for n, x in tokens.items()}
    truth = results("sequential", tokens, dtype=torch.float64, device="cpu", **options)
    found = results("triton", tokens, dtype=dtype, device=device, **options)
    for name, want in truth.items():
        error = relative_rms(found[name].cpu(), want)
        assert error <= LIMIT[dtype], f"{name}: {error:.2g}"


def flags_of(length, kinds):
    generator = torch.Generator().manual_seed(5)
    drawn = {"reset": 0.12, "mask": 0.7}
    drawn = {n: torch.rand(2, length, generator=generator) < p for n, p in drawn.items()}
    return {name: drawn[name] for name in kinds}


EVERY_OPTION = list(product((True, False), ("none", "key", "own"), ("post", "pre")))


@pytest.mark.parametrize("device", EVERY_DEVICE)
@pytest.mark.parametrize("kinds", [(), ("reset", "mask")], ids=["plain", "flags"])
@pytest.mark.parametrize(("momentum", "eraser", "read"), EVERY_OPTION)
def test_every_option_equals_fold_of_step(momentum, eraser, read, kinds, device):
    tokens = OP.inputs(3, length=19, momentum=momentum, erase_key=eraser == "own")
    if eraser == "none":
        del tokens["beta"]
    assert_parity(tokens, device=device, read=read, flags=flags_of(19, kinds))


@pytest.mark.parametrize("device", EVERY_DEVICE)
@pytest.mark.parametrize("chunk_size", [1, 32, 64])
@pytest.mark.parametrize("length", [1, 16, 33, 70])
def test_lengths_and_chunks(length, chunk_size, device):
    tokens = OP.inputs(0, batch=2, heads=1, length=length)
    kinds = ("reset",) if length == 33 else ("mask",) if length == 70 else ()
    options = {"chunk_size": chunk_size, "flags": flags_of(length, kinds)}
    assert_parity(tokens, device=device, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("read", ["post", "pre"])
def test_bfloat16(momentum, read, device):
    tokens = OP.inputs(2, length=70, key=32, value=32, momentum=momentum, erase_key=True)
    options = {"read": read, "chunk_size": 64, "flags": flags_of(70, ("reset", "mask"))}
    assert_parity(tokens, device=device, dtype=torch.bfloat16, **options)


@pytest.mark.parametrize("device", DEVICES)
def test_widths_below_and_above_one_tile(device):
    tokens = OP.inputs(4, batch=1, heads=2, length=20, key=20, value=70)
    assert_parity(tokens, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("eraser", [True, False])
def test_shared_key_across_heads(eraser, device):
    tokens = OP.inputs(6, length=20)
    tokens |= {n: tokens[n][:, :, :1] for n in ("q", "k")}
    if not eraser:
        del tokens["beta"]
    assert_parity(tokens, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("read", ["post", "pre"])
def test_gates_of_zero_and_one(read, device):
    tokens = OP.inputs(8, length=40)
    generator = torch.Generator().manual_seed(2)
    for name, value in (("alpha", 0.0), ("mu", 0.0), ("alpha", 1.0), ("mu", 1.0), ("beta", 0.0)):
        here = torch.rand(tokens[name].shape, generator=generator) < 0.2
        tokens[name] = torch.where(here, torch.full_like(tokens[name], value), tokens[name])
    assert_parity(tokens, device=device, read=read, chunk_size=32)


@pytest.mark.parametrize("device", DEVICES)
def test_equal_keys_with_alternating_inverse(device):
    """beta = 1 + alpha: the system whose inverse alternates; nothing grows."""
    tokens = OP.inputs(4, batch=1, heads=1, length=64)
    tokens["k"] = tokens["k"][:, :1].expand_as(tokens["k"]).contiguous()
    tokens["alpha"] = torch.ones_like(tokens["alpha"])
    tokens["beta"] = torch.full_like(tokens["beta"], 2.0)
    tokens["mu"] = torch.full_like(tokens["mu"], 0.5)
    assert_parity(tokens, device=device, chunk_size=64)


@pytest.mark.parametrize("device", DEVICES)
def test_output_dtypes_and_empty_sequence(device):
    tokens = {n: x.bfloat16().to(device) for n, x in OP.inputs(4, length=17).items()}
    with torch.autocast(device, dtype=torch.bfloat16):
        y, end = OP.triton(**tokens)
    assert y.dtype == torch.bfloat16 and end.weight.dtype == end.momentum.dtype == torch.float32
    y, end = OP.triton(**{n: x[:, :0] for n, x in tokens.items()})
    assert y.shape == (2, 0, 2, 4) and not end.weight.any()


@pytest.mark.gpu
def test_kernels_are_chosen_on_cuda(monkeypatch):
    """form=None uses the kernels where they are supported, otherwise the chunk form."""
    tokens = {n: x.float().cuda() for n, x in OP.inputs(1, length=40).items()}
    y, _ = momentum_gated_delta_rule(**tokens)
    assert torch.equal(y, OP.triton(**tokens)[0])
    wide = {n: x.double() for n, x in tokens.items()}
    assert torch.equal(momentum_gated_delta_rule(**wide)[0], OP.chunk(**wide)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("momentum", [True, False])
def test_forward_and_backward_in_a_cuda_graph(momentum):
    """After one tuning call nothing synchronises: a captured graph replays new inputs."""
    drawn = [OP.inputs(seed, length=130, momentum=momentum, key=32, value=32) for seed in (0, 1)]
    drawn = [{n: x.float().cuda() for n, x in tokens.items()} for tokens in drawn]
    static = {n: x.clone().requires_grad_() for n, x in drawn[0].items()}

    def work():
        y, end = OP.triton(**static)
        return y, torch.autograd.grad(y.sum() + end.weight.sum(), list(static.values()))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, grads = work()
    with torch.no_grad():
        for name, x in static.items():
            x.copy_(drawn[1][name])
    graph.replay()
    want, want_grads = work()
    assert torch.equal(y, want)
    assert all(torch.equal(a, b) for a, b in zip(grads, want_grads, strict=True))
