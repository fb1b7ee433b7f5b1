"""Text to batches: corpora, tokenizers, packing, and a loader that can be resumed."""

from nestling.data.corpus import CORPORA, Corpus, load_corpus
from nestling.data.framing import Frame, chat_ids, frame, prompt_ids
from nestling.data.loader import Loader, evaluation_batches
from nestling.data.pack import IGNORED, Batch, Packer, positions
from nestling.data.packages import fetch
from nestling.data.preparing import prepare
from nestling.data.sets import SETS, Labelled, Pair, Records, fetch_set, load_set
from nestling.data.tokenizer import (
    byte_tokenizer,
    check_vocabulary,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from nestling.data.tokens import Documents, Prepared, encode, load_tokens

__all__ = [
    "CORPORA",
    "IGNORED",
    "SETS",
    "Batch",
    "Corpus",
    "Documents",
    "Frame",
    "Labelled",
    "Loader",
    "Packer",
    "Pair",
    "Prepared",
    "Records",
    "byte_tokenizer",
    "chat_ids",
    "check_vocabulary",
    "encode",
    "evaluation_batches",
    "fetch",
    "fetch_set",
    "frame",
    "load_corpus",
    "load_set",
    "load_tokenizer",
    "load_tokens",
    "positions",
    "prepare",
    "prompt_ids",
    "read_tokenizer",
    "train_tokenizer",
]
