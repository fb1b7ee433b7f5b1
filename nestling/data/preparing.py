"""The tokens of a run, given the name of a corpus or a prepared folder."""

from pathlib import Path

from nestling.core.error import UserError
from nestling.data.corpus import load_corpus
from nestling.data.shards import is_prepared, open_shards, read_manifest
from nestling.data.tokenizer import load_tokenizer
from nestling.data.tokens import Prepared, load_tokens

TOKENIZER, VOCAB_SIZE = "bpe", 4096  # the defaults


def tokenizer_of(name: str, tokenizer: str | None, vocab_size: int | None) -> tuple[str, int]:
    """The kind and size of the tokenizer for a corpus; None is the default, or the folder's own.

    A prepared folder has its tokenizer already; asking for another raises UserError.
    """
    if not is_prepared(name):
        return tokenizer or TOKENIZER, VOCAB_SIZE if vocab_size is None else vocab_size
    own = read_manifest(Path(name).expanduser())["tokenizer"]
    for what, asked in (("tokenizer", tokenizer), ("vocab_size", vocab_size)):
        if asked is not None and asked != own[what]:
            raise UserError(
                f"the tokens of {name} were made with {what} {own[what]}, not {asked}; "
                "leave it out, or prepare the text again"
            )
    return own["tokenizer"], own["vocab_size"]


def prepare(name: str, *, tokenizer: str | None = None, vocab_size: int | None = None) -> Prepared:
    """The corpus, tokenizer and token ids of a name, read from the cache if they are there.

    ``tokenizer`` is "bpe" (the default: trained on the corpus, at most ``vocab_size`` tokens, 4096
    by default), "bpe-digits" (the same with every digit a token of its own) or "bytes". A folder
    written by ``nestling data prepare`` has its own tokenizer, and asking for another raises
    UserError; the texts of such a folder are not kept.
    """
    kind, size = tokenizer_of(name, tokenizer, vocab_size)
    if is_prepared(name):
        return open_shards(name)
    corpus = load_corpus(name)
    made = load_tokenizer(corpus, kind, size)
    return Prepared(corpus, made, *load_tokens(corpus, made))
