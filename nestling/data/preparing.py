"""Tokens by name, for a run: of a corpus, or of a folder that was prepared."""

from pathlib import Path

from nestling.core.error import UserError
from nestling.data.corpus import load_corpus
from nestling.data.shards import is_prepared, open_shards, read_manifest
from nestling.data.tokenizer import load_tokenizer
from nestling.data.tokens import Prepared, load_tokens

TOKENIZER, VOCAB_SIZE = "bpe", 4096  # where nothing else is asked for


def tokenizer_of(name: str, tokenizer: str | None, vocab_size: int | None) -> tuple[str, int]:
    """Kind and size of the tokenizer for a corpus; None: what is usual, or the folder's own.

    A prepared folder has one already; asking for another raises UserError.
    """
    if not is_prepared(name):
        return tokenizer or TOKENIZER, VOCAB_SIZE if vocab_size is None else vocab_size
    own = read_manifest(Path(name).expanduser())["tokenizer"]
    for what, asked in (("tokenizer", tokenizer), ("vocab_size", vocab_size)):
        if asked is not None and asked != own[what]:
            raise UserError(
                f"the tokens of {name} were made with {what} {own[what]}, not {asked}; "
                "leave it out, or prepare the text anew"
            )
    return own["tokenizer"], own["vocab_size"]


def prepare(name: str, *, tokenizer: str | None = None, vocab_size: int | None = None) -> Prepared:
    """Corpus, tokenizer and token ids by name, from the cache where they are in it.

    ``tokenizer`` is "bpe" (None: that; trained on the corpus, at most ``vocab_size`` tokens, 4096),
    "bpe-digits" (the same, each digit a token of its own) or "bytes". A folder of ``nestling data
    prepare`` has its own: asking for another raises UserError, and its texts are not kept.
    """
    kind, size = tokenizer_of(name, tokenizer, vocab_size)
    if is_prepared(name):
        return open_shards(name)
    corpus = load_corpus(name)
    made = load_tokenizer(corpus, kind, size)
    return Prepared(corpus, made, *load_tokens(corpus, made))
