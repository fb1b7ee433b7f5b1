"""Text to token ids: a byte-level BPE trained on the corpus itself, or plain bytes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestling.core.error import UserError
from nestling.data.cache import cache_folder, damaged, keep
from nestling.data.corpus import Corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"  # before and after every document
PAD = "<|pad|>"
KINDS = ("bpe", "bpe-digits", "bytes")
LEAST = 258  # tokens: the bytes, END and PAD
PADDING = 1024  # rows beyond the tokens, at most; a model with more belongs to another tokenizer


def _bare(model, *, digits: bool = False) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors

    tokenizer = Tokenizer(model)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    apart = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, words]) if digits else words
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)]
    )
    return tokenizer


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _train(texts: Iterable[str], vocab_size: int, *, digits: bool = False) -> "Tokenizer":
    from tokenizers import models, trainers

    tokenizer = _bare(models.BPE(), digits=digits)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _of_bytes() -> "Tokenizer":
    from tokenizers import models

    vocabulary = {token: index for index, token in enumerate([END, PAD, *_alphabet()])}
    tokenizer = _bare(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([END, PAD])
    return tokenizer


def _wrap(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, *, digits: bool = False
) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE on texts; any string can be encoded and decodes unchanged.

    With ``digits`` every digit is a token of its own, as in Llama 2 and SmolLM2. The end token (bos
    and eos) has id 0, padding has id 1. A small corpus may give fewer tokens than ``vocab_size``:
    use the length of the tokenizer as the model's vocabulary size.
    """
    if vocab_size < LEAST:
        raise UserError(
            f"vocab_size is {vocab_size}, too small for the 256 bytes and 2 special tokens; "
            f"give at least {LEAST}"
        )
    return _wrap(_train(texts, vocab_size, digits=digits))


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per byte: 258 tokens, including the end token (0) and padding (1)."""
    return _wrap(_of_bytes())


def load_tokenizer(
    corpus: Corpus, kind: str = "bpe", vocab_size: int = 4096
) -> "PreTrainedTokenizerFast":
    """The tokenizer of a corpus, trained on its training documents once and cached.

    ``kind`` is "bpe", "bpe-digits" (each digit a token) or "bytes"; the last always has 258 tokens
    and ignores ``vocab_size``.
    """
    if kind not in KINDS:
        raise UserError(f"unknown tokenizer {kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "bytes":
        return byte_tokenizer()
    digits = kind == "bpe-digits"
    name = f"{corpus.sha256[:16]}-{vocab_size}{'-digits' if digits else ''}.json"
    path = cache_folder() / "tokenizers" / name
    if not path.exists():
        trained = train_tokenizer(corpus.documents, vocab_size, digits=digits)
        keep(path, trained.backend_tokenizer.to_str().encode())
    return _wrap(_read(path))


def _read(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)["model"]["vocab"][END]  # from_str raises a bare Exception
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, "it is not a tokenizer of this library") from error
    return Tokenizer.from_str(text)


def read_tokenizer(folder: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that ``save_pretrained`` wrote beside a model. Raises UserError without one."""
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"no tokenizer.json in {folder}; give a folder written by nestling train")
    _read(folder / "tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def open_tokenizer(name: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of any transformers model, from a folder or the hub.

    It must be a fast one with an end-of-text token, which is also used for padding if there is no
    padding token. Raises UserError otherwise.
    """
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library, the hub and the files raise many kinds
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"no tokenizer at {name} ({reason}); choose {', '.join(KINDS)} or a folder with one"
        ) from error
    if not getattr(found, "is_fast", False) or found.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name} is not a fast one or has no end token; choose another"
        )
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


def fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Sha256 of everything that determines how a tokenizer encodes."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def check_vocabulary(tokenizer: "PreTrainedTokenizerFast", vocab_size: int) -> None:
    """Raise UserError unless the tokenizer has as many tokens as the model.

    A model may have a few more, up to a multiple of 8: the unused rows that transformers'
    ``resize_token_embeddings(count, pad_to_multiple_of=64)`` adds.
    """
    more = vocab_size - len(tokenizer)
    if more and not (0 < more < PADDING and vocab_size % 8 == 0):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}: use the "
            f"model's own tokenizer, or create the model with vocab_size={len(tokenizer)}"
        )
