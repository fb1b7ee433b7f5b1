"""Attention for several texts in one row, after an opening that some of them continue.

Each text attends to itself and, if it continues the opening, to that. A mask over the whole row
would do the same at a cost quadratic in the length of the row.
"""

import contextlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface

NAME = "nestling_apart"  # its name in transformers


class Layout(NamedTuple):
    """The layout of a row: an opening of ``head`` tokens, then N texts of at most L tokens.

    The last ``rest`` tokens of the row belong to no text: nothing reads them, they read nothing.
    """

    head: int
    places: Int[Tensor, " T"]  # for each token of the row, its position in the opening or its text
    tokens: Int[Tensor, "N L"]  # for each token of a text, its place in the row; past its end: any
    inside: Int[Tensor, " M"]  # those of the N L places that hold a token, in the row's order
    seen: Bool[Tensor, "N 1 L K"]  # what a token sees of the opening and its text, K = head + L
    rest: int


def layout(
    head: int, lengths: Sequence[int], begins: Sequence[bool], device: Any, rest: int = 0
) -> Layout:
    """A layout of texts of given lengths; those with True in ``begins`` continue the opening."""
    longest = max(lengths)
    size, after = torch.tensor(lengths), torch.tensor(begins)
    first = size.cumsum(0) - size + head
    steps = torch.arange(longest)
    there = steps < size[:, None]
    own = (steps[None] <= steps[:, None]) & there[:, None]  # [N, L, L]
    opened = after[:, None, None].expand(-1, longest, head)
    places = (steps + head * after[:, None])[there]
    return Layout(
        head,
        torch.cat([torch.arange(head), places, places.new_zeros(rest)]).to(device),
        torch.where(there, first[:, None] + steps, 0).to(device),
        there.flatten().nonzero()[:, 0].to(device),
        torch.cat([opened, own], 2)[:, None].to(device),
        rest,
    )


@contextlib.contextmanager
def apart(layers: Iterable[nn.Module]) -> Generator[None]:
    """Within this context, transformers layers called with a ``layout`` attend this way."""
    configs = {
        id(config): config
        for layer in layers
        for module in layer.modules()
        if hasattr(config := getattr(module, "config", None), "_attn_implementation")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 T H D"], None]:
    """Attention to a token's own text and the opening, with the signature of transformers.

    It is in float32 or better, under autocast, too: lengths vary, and in bfloat16 each would have
    kernels of its own.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x[0].transpose(0, 1).to(exact) for x in (query, key, value))  # [T, H, D]
    with torch.autocast(query.device.type, enabled=False):
        found = _attended(q, k, v, layout, scaling)
    return found[None].to(query.dtype), None


def _attended(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T G D"],
    v: Float[Tensor, "T G D"],
    layout: Layout,
    scaling: float | None,
) -> Float[Tensor, "T H D"]:
    count, longest = layout.tokens.shape
    head, groups, shared = layout.head, k.shape[1], q.shape[1] // k.shape[1]
    rows = layout.tokens.flatten()

    def texts(x: Tensor) -> Tensor:
        return x.index_select(0, rows).unflatten(0, (count, longest))

    def after_opening(x: Tensor) -> Tensor:
        begin = x[:head].expand(count, *x[:head].shape)
        return torch.cat([begin, texts(x)], 1).transpose(1, 2)  # [N, G, K, D]

    # heads that share a key are concatenated along time, as if they were more queries
    asked = texts(q).unflatten(2, (groups, shared)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    seen = layout.seen.repeat(1, 1, shared, 1)
    read = functional.scaled_dot_product_attention(
        asked, after_opening(k), after_opening(v), attn_mask=seen, scale=scaling
    )
    read = read.unflatten(2, (shared, longest)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    found = read.flatten(0, 1).index_select(0, layout.inside)
    if head:
        found = torch.cat([_opening(q[:head], k[:head], v[:head], scaling), found])
    if layout.rest:
        found = torch.cat([found, found.new_zeros(layout.rest, *found.shape[1:])])
    return found


def _opening(q: Tensor, k: Tensor, v: Tensor, scaling: float | None) -> Float[Tensor, "P H D"]:
    """The opening attends only to itself."""
    asked, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
    read = functional.scaled_dot_product_attention(
        asked, keys, values, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return read[0].transpose(0, 1)


AttentionInterface.register(NAME, attend)
