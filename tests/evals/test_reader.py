"""One reader for all models: segments equal one call, and forks continue."""

import pytest
import torch
from ending import ending_tokenizer
from readers import KINDS, TEXT, ids_of, reader, sharpened
from transformers import MistralConfig, MistralForCausalLM

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.models.folder import save_model
from nestling.models.held import size_of


@pytest.mark.parametrize("kind", KINDS)
def test_segmented_losses_equal_one_call(kind):
    found = reader(kind)
    ids = torch.tensor([ids_of(found)])
    with torch.no_grad():
        logits = found.model(ids[:, :-1]).logits[0]
    whole = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    parts = torch.cat(list(found.losses(ids)), 1)[0]
    torch.testing.assert_close(parts, whole, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_sum_over_the_joint_text(kind):
    found = reader(kind)
    context, rest = ids_of(found)[:30], [ids_of(found)[30:33], [7], ids_of(found)[30:50]]
    logits, cache = found.read(torch.tensor([context]))
    twice = [found.score(cache, logits, rest) for _ in range(2)]
    assert twice[0] == twice[1], "scoring has moved the memory on"
    for tokens, (score, likeliest) in zip(rest, twice[0], strict=True):
        ids = torch.tensor([context + tokens])
        with torch.no_grad():
            words = found.model(ids[:, :-1]).logits[0, 29:].log_softmax(-1)
        wanted = words.gather(-1, ids[0, 30:, None]).sum()
        assert score == pytest.approx(float(wanted), rel=1e-3)
        assert likeliest == bool((words.argmax(-1) == ids[0, 30:]).all())


@pytest.mark.parametrize("kind", KINDS)
def test_writing_is_greedy(kind):
    found = reader(kind)
    ids = ids_of(found)
    for _ in range(6):
        with torch.no_grad():
            ids = [*ids, int(found.model(torch.tensor([ids])).logits[0, -1].argmax())]
    wanted = found.decode(ids[-6:])
    assert found.write(ids_of(found), tokens=6) == wanted
    if len(wanted) > 2:
        assert (
            found.write(ids_of(found), tokens=6, stops=(wanted[2],)) == wanted.split(wanted[2])[0]
        )


@pytest.mark.parametrize("kind", [*KINDS, "mistral"])
def test_fork_is_independent(kind):
    found = sliding() if kind == "mistral" else reader(kind)
    ids = ids_of(found)
    _, cache = found.read(torch.tensor([ids[:20]]))
    fork, other = found.fork(cache), found.fork(cache)
    wanted = found.write(ids, tokens=5)
    assert found.write(ids[20:], tokens=5, cache=fork) == wanted
    found.read(torch.tensor([[7] * 30]), other)
    assert cache.get_seq_length() == 20
    assert found.write(ids[20:], tokens=5, cache=cache) == wanted


def sliding():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return Reader(sharpened(MistralForCausalLM(config)), byte_tokenizer(), name="m", segment=7)


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_are_scored_in_batches(kind, monkeypatch):
    found = reader(kind)
    logits, cache = found.read(torch.tensor([ids_of(found)]))
    rest = [[i, i + 1, i + 2] for i in range(5)]
    whole = found.score(cache, logits, rest)
    assert size_of(cache) > 0
    monkeypatch.setattr("nestling.evals.reader.COPIES", 2 * size_of(cache))
    sizes, call = [], Reader.call
    monkeypatch.setattr(
        Reader, "call", lambda self, ids, own: sizes.append(len(ids)) or call(self, ids, own)
    )
    parts = found.score(cache, logits, rest)
    assert sizes == [2, 2, 1]
    assert [score for score, _ in parts] == pytest.approx([score for score, _ in whole], rel=1e-5)


def test_special_tokens_in_text_are_plain_text():
    found = reader("hope-tiny")
    assert 0 not in found.encode("<|endoftext|>") and found.lead == [0]


@pytest.mark.parametrize("kind", ["hope-tiny", "llama"])
def test_both_folder_kinds_load(kind, tmp_path):
    made = reader(kind)
    if kind == "llama":
        made.model.save_pretrained(tmp_path)
        made.tokenizer.save_pretrained(tmp_path)
    else:
        save_model(made.model, made.tokenizer, tmp_path)
    found = Reader.load(tmp_path, segment=7)
    assert found.ours == (kind != "llama") and found.horizon == (256 if kind == "llama" else None)
    assert found.write(ids_of(found), tokens=4) == made.write(ids_of(made), tokens=4)
    assert found.about()["num_parameters"] == made.model.num_parameters()


def test_folder_without_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="contains no model"):
        Reader.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="cannot be read"):
        Reader.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Reader.load(tmp_path)


@pytest.mark.parametrize("begins", [False, True])
def test_appended_end_token_is_dropped(begins):
    tokenizer = ending_tokenizer(begins=begins)
    found = Reader(reader("llama").model, tokenizer, name="ending", segment=7)
    assert found.lead == ([1] if begins else [])
    assert 0 not in [*found.lead, *found.encode(TEXT)]
