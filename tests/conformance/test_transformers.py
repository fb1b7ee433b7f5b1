"""Conformance of every family as a transformers and PEFT model."""

import peft
import pytest
import torch
from tolerances import assert_close
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from nestling.models import (
    HopeForCausalLM,
    HopeForSequenceClassification,
    HopeForTokenClassification,
    HopeModel,
    create,
)
from nestling.models.presets import FAMILIES

NARROW = {"vocab_size": 64, "hidden_size": 32, "num_heads": 2, "num_hidden_layers": 1}
every_family = pytest.mark.parametrize("family", FAMILIES)


def narrow(family: str, **options) -> HopeForCausalLM:
    return create(f"{family}-tiny", **NARROW, **options)


def text(batch: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(1, 64, (batch, length), generator=torch.Generator().manual_seed(1))


@every_family
def test_base_model_round_trip(family, tmp_path):
    model, ids = narrow(family), text()
    model.save_pretrained(tmp_path / "whole")
    base = AutoModel.from_pretrained(tmp_path / "whole")
    assert isinstance(base, HopeModel)
    out, whole = base(ids, output_hidden_states=True), model(ids, output_hidden_states=True)
    assert torch.equal(out.last_hidden_state, whole.hidden_states[-1])
    assert len(out.hidden_states) == base.config.num_hidden_layers + 1
    assert_close(model.lm_head(out.last_hidden_state), whole.logits)
    base.save_pretrained(tmp_path / "base")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.tie_word_embeddings
    for name, value in back.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@every_family
def test_base_model_streaming_equals_the_whole(family):
    base, ids = narrow(family).backbone, text()
    cache, parts = None, []
    for piece in ids.split([7, 1, 12], dim=1):
        out = base(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.last_hidden_state)
    assert_close(torch.cat(parts, 1), base(ids).last_hidden_state)


@every_family
def test_classifiers_train_and_save(family, tmp_path):
    narrow(family).save_pretrained(tmp_path)
    ids, options = text(3), {"num_labels": 3, "pad_token_id": 0}
    for auto, kind, labels in (
        (AutoModelForSequenceClassification, HopeForSequenceClassification, torch.arange(3)),
        (AutoModelForTokenClassification, HopeForTokenClassification, ids % 3),
    ):
        model = auto.from_pretrained(tmp_path, **options)
        assert isinstance(model, kind)
        model(ids, labels=labels).loss.backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]
        model.save_pretrained(tmp_path / "out")
        again = auto.from_pretrained(tmp_path / "out")
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)


@every_family
def test_classification_ignores_padding_side(family):
    ids, length = text(2), 13
    config = narrow(family).config
    config.pad_token_id, config.num_labels = 0, 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    alone = model(ids[:, :length]).logits
    for left in (True, False):
        fill = torch.zeros(2, 5, dtype=torch.long)
        parts = (fill, ids[:, :length]) if left else (ids[:, :length], fill)
        row = torch.cat(parts, 1)
        assert_close(model(row, attention_mask=(row > 0).long()).logits, alone)


@every_family
def test_peft_trains_and_generates(family):
    model, ids = narrow(family), text()
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2)
    adapted = peft.get_peft_model(model, config)
    first = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    first.backward()
    new = adapted.generate(input_ids=ids[:, :5], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert new.shape == (2, 8)


@pytest.mark.parametrize("tuning", ["prompt", "p"])
def test_peft_prompt_tuning(tuning):
    model, ids = narrow("hope"), text()
    kind = {"prompt": peft.PromptTuningConfig, "p": peft.PromptEncoderConfig}[tuning]
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=4)
    adapted = peft.get_peft_model(model, config)
    adapted(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    grads = [p.grad for p in adapted.prompt_encoder.parameters() if p.requires_grad]
    assert grads and all(g is not None and g.abs().max() > 0 for g in grads)
    new = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, pad_token_id=0
    )
    assert new.shape[1] >= 3
