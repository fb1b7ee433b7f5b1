"""The tables of names in transformers and PEFT."""

import logging

import peft
import pytest
import torch
from peft.utils import constants
from small_models import FAMILIES as SMALL_FAMILIES
from small_models import small, words
from tolerances import assert_close
from transformers import Trainer, TrainingArguments, pipeline
from transformers.modelcard import TrainingSummary
from transformers.models.auto import modeling_auto
from transformers.trainer_pt_utils import LabelSmoother

from nestling.core.error import UserError
from nestling.models import HopeForCausalLM, create
from nestling.models.presets import FAMILIES


def arguments(path, **more) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(path),
        per_device_train_batch_size=3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        **more,
    )


@pytest.mark.parametrize(
    ("family", "adapted"),
    [
        # every family, with and without an adapter; other combinations are slow tests
        pytest.param(family, adapted, marks=[] if adapted == place % 2 else [pytest.mark.slow])
        for place, family in enumerate(SMALL_FAMILIES)
        for adapted in (False, True)
    ],
)
def test_trainer_label_smoothing_uses_shifted_labels(family, adapted, ids, tmp_path):
    model = small(family)
    logits = model(ids).logits[:, :-1].log_softmax(-1)
    right = -logits.gather(-1, ids[:, 1:, None]).mean()
    expected = 0.9 * right + 0.1 * -logits.mean()
    trained = model
    if adapted:
        trained = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    settings = arguments(tmp_path, max_steps=1, label_smoothing_factor=0.1)
    trainer = Trainer(model=trained, args=settings, train_dataset=rows)
    assert isinstance(trainer.label_smoother, LabelSmoother)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_classes_are_in_the_auto_model_tables():
    ours = {
        "MODEL_MAPPING_NAMES": "HopeModel",
        "MODEL_FOR_PRETRAINING_MAPPING_NAMES": "HopeForCausalLM",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "HopeForCausalLM",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "HopeForSequenceClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "HopeForTokenClassification",
    }
    tables = {k: v for k, v in vars(modeling_auto).items() if k.endswith("_MAPPING_NAMES")}
    assert {k: v["hope"] for k, v in tables.items() if "hope" in v} == ours
    # tables for models of attention and feed-forward networks apply to ours too
    llama = {
        k for k, v in tables.items() if "llama" in v and "QUESTION" not in k and "CONFIG" not in k
    }
    assert llama <= set(ours)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("text-generation", "HopeForCausalLM"),
        ("feature-extraction", "HopeModel"),
        ("text-classification", "HopeForSequenceClassification"),
        ("token-classification", "HopeForTokenClassification"),
    ],
)
def test_every_text_pipeline_accepts_the_model(hope, tmp_path, caplog, task, kind):
    hope.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    logging.getLogger("transformers").propagate = True
    try:
        made = pipeline(task, model=str(tmp_path), device="cpu")
        assert type(made.model).__name__ == kind
        assert made("1 2 3 4")
    finally:
        logging.getLogger("transformers").propagate = False
    assert "not supported" not in caplog.text


def test_model_card_names_the_task(hope, ids, tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model=hope, args=arguments(tmp_path), train_dataset=rows)
    assert TrainingSummary.from_trainer(trainer).tasks == "text-generation"


def narrow(family: str) -> HopeForCausalLM:
    shape = {"vocab_size": 64, "hidden_size": 32, "num_heads": 2, "num_hidden_layers": 1}
    return create(f"{family}-tiny", **shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [peft.LoraConfig, peft.IA3Config, peft.LNTuningConfig])
def test_peft_finds_target_modules_of_every_family(family, method):
    model = peft.get_peft_model(narrow(family), method(task_type="CAUSAL_LM"))
    ids = torch.arange(20)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)


def test_every_peft_table_with_llama_has_our_models():
    tables = {k: v for k, v in vars(constants).items() if k.startswith("TRANSFORMERS_MODELS_TO_")}
    assert not [k for k, v in tables.items() if "llama" in v and "hope" not in v]


def test_prefix_tuning_is_refused_in_one_line(hope, ids):
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(UserError, match="must be a MemoryCache, not DynamicCache"):
        peft.get_peft_model(hope, config)(input_ids=ids)


def test_label_smoothing_skips_first_tokens_of_packed_documents(hope, ids):
    """The padding-free collator labels them -100, the only value LabelSmoother checks."""
    labels = ids[:1].clone()
    labels[0, 20] = -100
    reset = torch.zeros_like(labels, dtype=torch.bool)
    reset[0, 20] = True
    out = hope(ids[:1], reset=reset)
    smoothed = LabelSmoother(epsilon=0.0)(out, labels, shift_labels=True)
    assert_close(smoothed, hope(ids[:1], labels=ids[:1], reset=reset).loss)
