"""Perplexity per token, word and byte."""

import math

import pytest
import torch
from readers import llama, reader, sharpened

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.lm import choose, lm
from nestling.evals.windows import windows

TEXTS = ["one two  three", "a\nb", "x" * 90, "the last and the longest of all the texts " * 3]


def total(found, texts):
    """Nats of all texts, each read at once after the start tokens."""
    nats = 0.0
    for text in texts:
        ids = torch.tensor([found.start + found.encode(text)])
        with torch.no_grad():
            logits = found.model(ids[:, :-1]).logits[0].double()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return nats


@pytest.mark.parametrize("kind", ["hope-tiny", "transformer-tiny", "llama"])
def test_metrics_sum_over_whole_documents(kind):
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


def test_loss_matches_transformers():
    found = reader("llama")
    ids = torch.tensor([found.start + found.encode(TEXTS[3])])
    with torch.no_grad():
        theirs = float(found.model(ids, labels=ids).loss)
    assert lm(found, TEXTS[3:])["loss"] == pytest.approx(theirs, rel=1e-4)


def test_texts_beyond_the_horizon_use_windows():
    found = Reader(sharpened(llama(positions=40)), byte_tokenizer())
    text = TEXTS[3]
    pieces = [text[at : at + 40] for at in range(0, len(text), 40)]
    figures = lm(found, TEXTS[3:], kind="apart")
    assert figures["tokens"] == len(text)
    assert figures["loss"] == pytest.approx(total(found, pieces) / figures["tokens"], rel=1e-4)
    assert figures["windows"] == "apart"
    # rolling: each after the last token of the one before, and the last as far back as can be
    ids, nats = found.encode(text), 0.0
    for at in range(0, len(ids), 40):
        end = min(at + 40, len(ids))
        row = found.start + ids[:40] if at == 0 else ids[end - 41 : end]
        with torch.no_grad():
            words = found.model(torch.tensor([row[:-1]])).logits[0].log_softmax(-1)
        nats -= float(words.gather(-1, torch.tensor(row)[1:, None])[at - end :].sum())
    figures = lm(found, TEXTS[3:])
    assert figures["tokens"] == len(text) and figures["windows"] == "rolling"
    assert figures["loss"] == pytest.approx(nats / len(text), rel=1e-4)


def test_windows_match_the_lm_eval_example():
    found = Reader(llama(positions=4), byte_tokenizer())
    ids = list(range(100, 110))
    seen = [
        (window.ids[:-1], window.ids[window.begin :]) for window in windows(found, ids, "rolling")
    ]
    assert seen == [
        ([0, 100, 101, 102], [100, 101, 102, 103]),
        ([103, 104, 105, 106], [104, 105, 106, 107]),
        ([105, 106, 107, 108], [108, 109]),
    ]
    assert windows(found, []) == [] and len(windows(found, ids[:4])) == 1
    with pytest.raises(UserError, match="did you mean 'rolling'"):
        windows(found, ids, "roling")


@pytest.mark.parametrize("kind", ["rolling", "apart"])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 23])
@pytest.mark.parametrize("lead", [1, 3])
def test_every_token_is_predicted_once(kind, count, lead):
    found = Reader(llama(positions=6), byte_tokenizer())
    found.lead = [0] * lead
    ids = list(range(100, 100 + count))
    cut = windows(found, ids, kind)
    assert [token for window in cut for token in window.ids[window.begin :]] == ids
    assert all(len(window.ids) <= 7 and window.begin >= 1 for window in cut)
    assert all(window.ids[: window.lead] == [0] * window.lead for window in cut)


def test_document_choice_does_not_depend_on_tokenizer():
    assert choose(TEXTS, 20) == choose(TEXTS, 20) and choose(TEXTS, 20) != choose(TEXTS, None)
    assert sorted(choose(TEXTS, None)) == sorted(TEXTS)
    assert sum(map(len, choose(TEXTS, 20))) >= 20
    with pytest.raises(UserError, match="no text"):
        choose(["", ""], None)


def test_no_rows_are_a_user_error():
    with pytest.raises(UserError, match="at least 1"):
        lm(reader("llama"), TEXTS, batch_size=0)
