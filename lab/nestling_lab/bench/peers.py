"""Third-party implementations, built at the shapes of our models, for speed comparisons.

The models of transformers need no extra. titans-pytorch comes with ``pip install nestling[bench]``.
nested-learning is left out: it needs huggingface-hub below 1.0, but transformers 5 needs a newer
one, so they cannot be installed together. Peers are timed as published: their forward, their loss
if they have one, and torch's AdamW.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError, did_you_mean
from nestling.models import preset
from nestling.train.step import precision

MAX_NORM = 1.0  # of the gradient, as in our own training


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A third-party language model, and the family of ours it is compared with."""

    package: str  # required package
    beside: str  # our family with the same equations
    build: Callable[[int], nn.Module]  # vocabulary size -> model of the size "tiny"
    logits: Callable[[nn.Module, Tensor], Tensor]


def _ours(family: str) -> tuple[dict[str, Any], dict[str, Any]]:
    values = preset(f"{family}-tiny")
    return values, values["memories"]


def _llama(vocab_size: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, memories = _ours("transformer")
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=shape["hidden_size"],
            num_hidden_layers=shape["num_hidden_layers"],
            num_attention_heads=shape["num_heads"],
            num_key_value_heads=memories["attention"]["num_kv_heads"],
            intermediate_size=memories["mlp"]["intermediate_size"],
            max_position_embeddings=131072,
            tie_word_embeddings=True,
        )
    )


def _mamba2(vocab_size: int) -> nn.Module:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    shape, memories = _ours("mamba2")
    inner = memories["mamba2"]["inner_size"]
    config = Mamba2Config(
        vocab_size=vocab_size,
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["num_hidden_layers"] * len(shape["pattern"]),
        num_heads=shape["hidden_size"] // 64,
        head_dim=64,
        expand=1,
        state_size=memories["mamba2"]["state_size"],
        n_groups=1,
        initializer_range=0.02,
        tie_word_embeddings=True,
    )
    # its check requires an integer, its model accepts any number
    vars(config).update(expand=inner / shape["hidden_size"], num_heads=inner // 64)
    return Mamba2ForCausalLM(config)


def _gated_delta_net(vocab_size: int) -> nn.Module:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    shape, memories = _ours("gated-delta-net")
    layers, heads = shape["num_hidden_layers"], shape["num_heads"]
    key = shape["hidden_size"] * 3 // 4 // heads
    return Qwen3NextForCausalLM(
        Qwen3NextConfig(
            vocab_size=vocab_size,
            hidden_size=shape["hidden_size"],
            num_hidden_layers=layers,
            num_attention_heads=heads,
            linear_num_key_heads=heads,
            linear_num_value_heads=heads,
            linear_key_head_dim=key,
            linear_value_head_dim=2 * key,
            intermediate_size=memories["mlp"]["intermediate_size"],
            mlp_only_layers=list(range(layers)),
            layer_types=["linear_attention"] * layers,
            tie_word_embeddings=True,
        )
    )


def _titans_mac(vocab_size: int) -> nn.Module:
    # segment and tokens as in its README; width, depth and heads those of our size "tiny"
    return module("titans_pytorch").MemoryAsContextTransformer(
        num_tokens=vocab_size,
        dim=256,
        depth=4,
        heads=4,
        segment_len=128,
        num_persist_mem_tokens=4,
        num_longterm_mem_tokens=16,
    )


def _of_output(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


def _plain(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids)


PEERS: dict[str, Peer] = {
    "llama": Peer(package="transformers", beside="transformer", build=_llama, logits=_of_output),
    "mamba2": Peer(package="transformers", beside="mamba2", build=_mamba2, logits=_of_output),
    "qwen3-next": Peer(
        package="transformers", beside="gated-delta-net", build=_gated_delta_net, logits=_of_output
    ),
    "titans-mac": Peer(
        package="titans_pytorch", beside="titans-mac", build=_titans_mac, logits=_plain
    ),
}


def find(name: str) -> Peer:
    """A peer by name. Raises UserError for an unknown name or a missing package."""
    if name not in PEERS:
        raise UserError(f"unknown peer {name!r}: {did_you_mean(name, PEERS)}")
    require(PEERS[name].package)
    return PEERS[name]


def require(package: str) -> None:
    """Raise UserError, with the remedy, if the package of a peer is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{package.replace('_', '-')} is not installed: pip install 'nestling[bench]' "
            "(with PIP_CONSTRAINT=constraints.txt), or leave out this peer with --peers"
        )


def module(package: str) -> Any:
    """Import a package of the extra, which not every installation has."""
    require(package)
    return importlib.import_module(package)


class Training:
    """A peer with AdamW; trains one step at a time on the same batch, like our own training."""

    def __init__(self, name: str, batch: Any, *, vocab_size: int, device: str, dtype: str):
        peer = find(name)
        torch.manual_seed(0)
        self.model = peer.build(vocab_size).to(device).train()
        self.logits = peer.logits
        self.batch = batch.to(device)
        self.device, self.precision = torch.device(device), dtype
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3, betas=(0.9, 0.95))
        self.first_loss = math.nan

    def step(self) -> None:
        """Forward, backward, clip, update."""
        self.optimizer.zero_grad()
        with precision(self.device, self.precision):
            logits = self.logits(self.model, self.batch.input_ids)
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), self.batch.labels.flatten().to(logits.device)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        if math.isnan(self.first_loss):
            self.first_loss = float(loss.detach())
        self.optimizer.step()


def chunk_gated_delta_rule() -> Callable[..., Any]:
    """The chunked gated delta rule of Qwen3-Next in transformers, in torch."""
    from transformers.models.qwen3_next import modeling_qwen3_next

    return modeling_qwen3_next.torch_chunk_gated_delta_rule


def titans_memory(hidden_size: int, chunk: int) -> nn.Module:
    """The memory module of titans-pytorch, with the settings of its README."""
    torch.manual_seed(0)
    return module("titans_pytorch").NeuralMemory(dim=hidden_size, chunk_size=chunk)
