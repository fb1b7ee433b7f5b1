"""A vocabulary padded to a multiple: loaded unchanged, and padding rows are never generated."""

import pytest
import torch
from tiny_training import tiny_model

from nestling.cli.main import main
from nestling.continual.opening import open_learner
from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.models.folder import load_model, save_model
from nestling.train.inference import continue_text

TOKENS, PADDED = 258, 320


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and the same with padding rows that have the largest logits."""
    model = tiny_model("hope-attention-tiny", tie_word_embeddings=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3, generator=generator)
    place = tmp_path_factory.mktemp("padded")
    save_model(model, byte_tokenizer(), place / "plain")
    model.resize_token_embeddings(TOKENS, pad_to_multiple_of=64)
    assert model.config.vocab_size == PADDED
    with torch.no_grad():
        model.lm_head.weight[TOKENS:].normal_(std=30.0, generator=generator)
    save_model(model, byte_tokenizer(), place / "padded")
    return place / "plain", place / "padded"


def test_padding_rows_have_the_largest_logits(folders):
    model, _ = load_model(folders[1])
    assert int(model(torch.tensor([[65, 66]])).logits[0, -1].argmax()) >= TOKENS


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_generation_ignores_padding_rows(folders, temperature):
    written = [
        "".join(
            continue_text(*load_model(folder), start, tokens=20, temperature=temperature)[0]
            for start in ("The key", "hangs", "in the shed")  # one may end at once
        )
        for folder in folders
    ]
    assert written[0] == written[1] and len(written[0]) > 5


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}])
def test_transformers_generate_never_emits_padding_rows(folders, options):
    model, tokenizer = load_model(folders[1])
    ids = torch.tensor([tokenizer("The key")["input_ids"]])
    out = model.generate(ids, max_new_tokens=12, pad_token_id=tokenizer.pad_token_id, **options)
    assert out.max() < TOKENS


def test_evaluation_reader_ignores_padding_rows(folders):
    plain, padded = (Reader.load(folder) for folder in folders)
    ids = plain.encode("The key hangs in the blue shed.")
    assert padded.write(ids, tokens=12) == plain.write(ids, tokens=12)
    assert torch.cat(list(padded.losses(torch.tensor([ids]))), 1).isfinite().all()


@pytest.mark.parametrize("gate", [None, "levels"])
def test_learner_never_emits_padding_rows(folders, gate, monkeypatch):
    learner, written = open_learner(folders[1]), []
    learner.read("The key hangs in the blue shed. " * 8)
    learner.gate = gate
    monkeypatch.setattr(learner.text, "decode", lambda ids: str(written.extend(ids.tolist())))
    learner.generate("The key", tokens=10)
    assert written and max(written) < TOKENS


def test_commands_accept_padded_vocabulary(folders, tmp_path, capsys):
    model = str(folders[1])
    assert main(["generate", "--model", model, "--prompt", "The", "--tokens", "5"]) == 0
    notes = str(tmp_path / "notes.memory")
    assert main(["learn", model, "The key hangs. " * 20, "--memory", notes, "--quiet"]) == 0
    text = tmp_path / "text.txt"
    text.write_text("The key hangs in the blue shed.")
    assert main(["eval", "lm", "--model", model, "--text", str(text)]) == 0
    assert "erplexity" in capsys.readouterr().out


@pytest.mark.parametrize("size", [TOKENS - 2, TOKENS + 1, 4096])
def test_other_vocabulary_mismatch_is_refused(folders, tmp_path, size):
    model, tokenizer = load_model(folders[0])
    model.resize_token_embeddings(size)
    save_model(model, tokenizer, tmp_path)
    with pytest.raises(UserError, match=f"has 258 tokens and the model {size}"):
        load_model(tmp_path)
