"""Perplexity for each token, word and byte."""

import math

import pytest
import torch
from readers import llama, reader, sharpened

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.lm import choose, lm

TEXTS = ["one two  three", "a\nb", "x" * 90, "the last and the longest of all the texts " * 3]


def total(found, texts):
    """Nats of all texts, each read at once after the start of a text."""
    nats = 0.0
    for text in texts:
        ids = torch.tensor([found.start + found.encode(text)])
        with torch.no_grad():
            logits = found.model(ids[:, :-1]).logits[0].double()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return nats


@pytest.mark.parametrize("kind", ["hope-tiny", "transformer-tiny", "llama"])
def test_figures_are_the_sum_over_documents_read_whole(kind):
    found = reader(kind)
    nats, figures = total(found, TEXTS), lm(found, TEXTS, batch_size=3)
    assert figures["bytes"] == sum(map(len, TEXTS)) == figures["tokens"]
    assert figures["words"] == 3 + 2 + 1 + 28
    assert figures["loss"] == pytest.approx(nats / figures["tokens"], rel=1e-4)
    assert figures["word_perplexity"] == pytest.approx(math.exp(nats / figures["words"]), rel=1e-2)
    assert figures["byte_perplexity"] == pytest.approx(math.exp(nats / figures["bytes"]), rel=1e-3)
    assert figures["bits_per_byte"] == pytest.approx(
        nats / figures["bytes"] / math.log(2), rel=1e-4
    )
    stretches = figures["by_position"]
    assert [part["start"] for part in stretches] == [0, 16, 32, 64]
    assert sum(part["tokens"] for part in stretches) == figures["tokens"]
    assert stretches[0]["tokens"] == 14 + 3 + 16 + 16


def test_a_loss_is_transformers_own():
    found = reader("llama")
    ids = torch.tensor([found.start + found.encode(TEXTS[3])])
    with torch.no_grad():
        theirs = float(found.model(ids, labels=ids).loss)
    assert lm(found, TEXTS[3:])["loss"] == pytest.approx(theirs, rel=1e-4)


def test_beyond_its_horizon_a_model_reads_in_windows():
    found = Reader(sharpened(llama(positions=40)), byte_tokenizer())
    windows = [TEXTS[3][at : at + 40] for at in range(0, len(TEXTS[3]), 40)]
    figures = lm(found, TEXTS[3:])
    assert figures["tokens"] == len(TEXTS[3])
    assert figures["loss"] == pytest.approx(total(found, windows) / figures["tokens"], rel=1e-4)


def test_the_choice_of_documents_does_not_depend_on_the_tokenizer():
    assert choose(TEXTS, 20) == choose(TEXTS, 20) and choose(TEXTS, 20) != choose(TEXTS, None)
    assert sorted(choose(TEXTS, None)) == sorted(TEXTS)
    assert sum(map(len, choose(TEXTS, 20))) >= 20
    with pytest.raises(UserError, match="no text"):
        choose(["", ""], None)


def test_no_rows_are_a_user_error():
    with pytest.raises(UserError, match="at least 1"):
        lm(reader("llama"), TEXTS, batch_size=0)
