"""Tokenizers round-trip every text; tokens are cached; mismatches are named."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.error import UserError
from nestling.data import (
    byte_tokenizer,
    check_vocabulary,
    encode,
    load_corpus,
    load_tokenizer,
    load_tokens,
    prepare,
    read_tokenizer,
    train_tokenizer,
)
from nestling.data.tokenizer import fingerprint

TEXTS = [
    "the cat sat on the mat",
    "1995 cats in 1995",
    "a cat and a mat, caf\u00e9",
    "<|endoftext|> spelt out",
] * 3
BPE = train_tokenizer(TEXTS, 300)
DIGITS = train_tokenizer(TEXTS, 300, digits=True)
BYTES = byte_tokenizer()


@pytest.mark.parametrize("tokenizer", [BPE, DIGITS, BYTES], ids=["bpe", "digits", "bytes"])
@given(text=st.text())
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    documents = encode([text], tokenizer)
    inner = documents.ids[1:-1].tolist()
    assert tokenizer.backend_tokenizer.decode(inner, skip_special_tokens=False) == text
    assert documents.ids[[0, -1]].tolist() == [0, 0]


def test_byte_ids():
    assert len(BYTES) == 258
    assert (BYTES.eos_token_id, BYTES.bos_token_id, BYTES.pad_token_id) == (0, 0, 1)
    ids = encode(["abc\u00e9"], BYTES).ids
    assert len(ids) == 2 + 5 and ids.unique().numel() == 6


def test_digits_can_be_split():
    text = "in 1995 and 1995"
    assert len(BPE.tokenize("1995")) < 4
    assert [one for one in DIGITS.tokenize(text) if one.isdigit()] == list("19951995")


def test_special_tokens_in_text_are_plain_text():
    inner = encode(["one <|endoftext|> two <|pad|>"], BPE).ids[1:-1]
    assert not ((inner == 0) | (inner == 1)).any()


def test_training_is_deterministic():
    again = train_tokenizer(TEXTS, 300)
    assert again.backend_tokenizer.to_str() == BPE.backend_tokenizer.to_str()
    assert len(BPE) <= 300


def test_documents_are_concatenated():
    documents = encode(["ab", "", "c"], BYTES)
    assert documents.bounds.tolist() == [0, 4, 6, 9]
    assert documents.lengths() == [3, 1, 2]
    assert documents.num_targets == 6
    assert documents.take(2).bounds.tolist() == [0, 4, 6]
    assert len(encode([], BYTES)) == 0


def test_save_and_load_beside_a_model(tmp_path):
    BPE.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    text = "the mat sat"
    assert again(text)["input_ids"] == BPE(text)["input_ids"]
    assert again.pad_token_id == BPE.pad_token_id and again.padding_side == "left"


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="vocab_size=258"):
        check_vocabulary(BYTES, 4096)
    check_vocabulary(BYTES, 258)
    with pytest.raises(UserError, match="give at least 258"):
        train_tokenizer(TEXTS, 100)
    with pytest.raises(UserError, match="no tokenizer.json"):
        read_tokenizer(tmp_path)
    BPE.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged"):
        read_tokenizer(tmp_path)


def test_cache_is_keyed_by_corpus_hash(pages, cache, monkeypatch):
    first = prepare(str(pages), vocab_size=300)
    monkeypatch.setattr("nestling.data.tokenizer.train_tokenizer", None)
    monkeypatch.setattr("nestling.data.tokens.encode", None)
    again = prepare(str(pages), vocab_size=300)
    assert again.corpus == first.corpus
    for a, b in zip(first[2:], again[2:], strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.bounds, b.bounds)
        assert a.ids.dtype == b.ids.dtype and a.pad_id == b.pad_id
    with pytest.raises(UserError, match="unknown tokenizer"):
        load_tokenizer(first.corpus, "words")


def test_digit_tokenizer_has_its_own_cache(pages):
    plain, digits = (
        prepare(str(pages), tokenizer=k, vocab_size=300) for k in ("bpe", "bpe-digits")
    )
    again = prepare(str(pages), tokenizer="bpe-digits", vocab_size=300)
    assert fingerprint(digits.tokenizer) == fingerprint(again.tokenizer)
    assert fingerprint(digits.tokenizer) != fingerprint(plain.tokenizer)


def test_bytes_need_no_training(pages):
    prepared = prepare(str(pages), tokenizer="bytes")
    assert len(prepared.tokenizer) == 258
    assert prepared.train.num_targets > 5000


@pytest.mark.parametrize("part", ["tokenizers", "tokens"])
def test_damaged_cache_is_named(pages, cache, part):
    prepare(str(pages), vocab_size=300)
    (path,) = (cache / part).iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="delete it and run again"):
        prepare(str(pages), vocab_size=300)


def test_large_vocabularies_are_not_truncated(pages, monkeypatch):
    corpus = load_corpus(str(pages))
    small = load_tokens(corpus, BYTES)
    monkeypatch.setattr("nestling.data.tokens.SMALL", 100)
    wide = train_tokenizer(corpus.documents, 260)
    for _ in range(2):
        train, _held = load_tokens(corpus, wide)
        assert int(train.ids.max()) > 100
    assert small[0].ids.dtype == train.ids.dtype


def test_stdlib_token_count(stdlib):
    tokenizer = load_tokenizer(stdlib)
    assert len(tokenizer) == 4096
    train, held_out = load_tokens(stdlib, tokenizer)
    assert 400_000 < train.num_targets < 1_200_000
    assert held_out.num_targets > 10_000
    assert int(train.ids.max()) == 4095
