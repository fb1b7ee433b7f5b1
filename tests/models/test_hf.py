"""Saving, loading, Trainer and pipelines of transformers."""

import json
import subprocess
import sys

import pytest
import torch
from apart import run_apart
from page_examples import told
from small_models import small, words
from tolerances import BFLOAT16_RELATIVE_RMS, assert_close, relative_rms
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Trainer,
    TrainingArguments,
    pipeline,
)

from nestling.core.error import UserError
from nestling.models import HopeConfig, HopeForCausalLM, create


def test_save_and_load_round_trip(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, HopeForCausalLM)
    for config in (loaded.config, model.config):
        config._name_or_path, config.dtype = "", None
    assert loaded.config.to_dict() == model.config.to_dict()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert AutoConfig.from_pretrained(tmp_path).memory_configs() == model.config.memory_configs()


def test_loading_uses_no_random_numbers(hope, tmp_path):
    hope.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_missing_weight_is_initialised_and_others_are_kept(hope, tmp_path):
    """from_pretrained builds on the meta device: values not in the file must be initialised."""
    hope.save_pretrained(tmp_path)
    weights = {k: v for k, v in hope.state_dict().items() if k != "lm_head.weight"}
    gone = [k for k in weights if k.endswith(("initial_first", "alpha_bias", "norm.weight"))]
    kept = {k: v for k, v in weights.items() if k not in gone}
    loaded = HopeForCausalLM.from_pretrained(
        None, config=hope.config, state_dict={k: v.clone() for k, v in kept.items()}
    )
    fresh = small("hope").state_dict()
    for name, value in loaded.state_dict().items():
        assert value.isfinite().all(), name
        if name in kept:
            assert torch.equal(value, kept[name]), name
        elif name.endswith(("alpha_bias", "norm.weight")):
            assert torch.equal(value, fresh[name]), name


def test_bfloat16_keeps_initial_states_and_gates_in_float32(hope, ids, tmp_path):
    hope.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    exact = {n.split(".")[-1] for n, p in loaded.named_parameters() if p.dtype == torch.float32}
    assert {"initial_first", "initial_second", "alpha_bias", "eta_bias", "mu_bias"} <= exact
    assert loaded.backbone.embed_tokens.weight.dtype == torch.bfloat16
    logits = loaded(ids).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_each_memory_declares_its_float32_parameters(tmp_path):
    """Only in this block: another memory has a low-precision map called ``rate``."""
    sizes = {"hidden_size": 16, "num_heads": 2, "vocab_size": 16}
    pattern = ("ada_transformer", "rwkv7", "titans", "cms_context")
    model = HopeForCausalLM(HopeConfig(pattern=pattern, num_hidden_layers=2, **sizes))
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    exact = {n for n, p in loaded.named_parameters() if p.dtype == torch.float32}
    said = [block.memory.float32_parameters() for block in model.backbone.each()]
    assert exact == {
        f"backbone.blocks.{i}.memory.{name}" for i, names in enumerate(said) for name in names
    }
    assert {"backbone.blocks.0.memory.rate", "backbone.blocks.5.memory.decay_bias"} <= exact


@pytest.mark.parametrize("number", [7, torch.tensor(7)])
def test_loss_is_divided_by_num_items(hope, ids, number):
    labels = ids.clone()
    labels[:, 20:] = -100
    mean = hope(ids, labels=labels).loss
    logits = hope(ids).logits[:, :19]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:20].flatten())
    assert_close(mean, expected)
    assert_close(hope(ids, labels=labels, num_items_in_batch=number).loss, mean * 57 / 7)


def test_logits_to_keep_by_count_or_index(model, ids):
    whole = model(ids).logits
    assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    assert_close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, whole[:, [0, 5]])
    with pytest.raises(UserError, match="logits_to_keep"):
        model(ids, labels=ids, logits_to_keep=1)


def test_inputs_embeds_equal_input_ids(model, ids):
    given = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    assert_close(given, model(ids).logits)
    with pytest.raises(UserError, match="either"):
        model()


def test_out_of_range_tokens_and_masks_are_refused(model, ids):
    with pytest.raises(UserError, match="token 97 .* vocabulary of 97.*tokenizer"):
        model(torch.full((1, 3), 97))
    with pytest.raises(UserError, match="attention_mask"):
        model(ids, attention_mask=torch.ones(3, 20))


def test_vocabulary_can_be_resized(model, ids):
    before = model(ids).logits
    model.resize_token_embeddings(100)
    assert_close(model(ids).logits[..., :97], before)


def test_transformers_trainer_runs(model, ids, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
    )
    rows = [{"input_ids": row, "labels": row} for row in ids[:, :19].repeat(4, 1)]
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4])
    result = trainer.train()
    assert result.global_step == 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[1] < losses[0]
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not still


def test_text_generation_pipeline(model, tmp_path):
    model.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    writer = pipeline("text-generation", model=str(tmp_path), device="cpu")
    prompts = ["1 2 3 4 5 6 7", "8 9"]
    options = {"max_new_tokens": 5, "do_sample": False}
    alone = [writer(prompt, **options)[0]["generated_text"] for prompt in prompts]
    together = [out[0]["generated_text"] for out in writer(prompts, batch_size=2, **options)]
    assert together == alone
    assert all(text.startswith(p) for text, p in zip(alone, prompts, strict=True))


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def after_nestling(code):
    """If nestling was imported first."""
    return run_apart(told, code)


@pytest.mark.parametrize(
    ("lines", "done"),
    [
        ("from transformers import AutoModelForCausalLM as A; import peft", after_nestling),
        (
            "import peft; from transformers import AutoModelForCausalLM as A; import nestling",
            in_a_new_process,
        ),
        pytest.param(
            "import nestling, peft, transformers; A = transformers.AutoModelForCausalLM",
            in_a_new_process,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_registration_works_in_any_import_order(lines, done, tmp_path):
    create("transformer-tiny", vocab_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    table = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"
    kind, *targets = done(
        f"{lines}; from peft.utils import constants as c; "
        f"print(type(A.from_pretrained({str(tmp_path)!r})).__name__, *c.{table}['hope'])"
    ).split()
    assert kind == "HopeForCausalLM" and "query" in targets


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "AutoModelForSequenceClassification"])
def test_any_transformers_model_can_be_imported_first(name):
    said = after_nestling(
        f"from transformers import {name}, AutoModelForSequenceClassification as A; "
        "from nestling.models.config import HopeConfig; "
        "sizes = dict(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_labels=2); "
        "print(type(A.from_config(HopeConfig(**sizes))).__name__)"
    )
    assert said.strip() == "HopeForSequenceClassification"


def test_import_nestling_imports_neither_torch_nor_transformers():
    code = "import sys, nestling, json; print(json.dumps([m in sys.modules for m in sys.argv[1:]]))"
    names = ["torch", "transformers"]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [False, False]


def test_constructor_initialises_like_create(model, ids):
    before = {name: value.std().item() for name, value in create_like(model).items()}
    built = AutoModelForCausalLM.from_config(model.config)
    for name, value in built.state_dict().items():
        assert value.isfinite().all(), name
        assert value.std().item() == pytest.approx(before[name], rel=0.6, abs=1e-6), name


def create_like(model: HopeForCausalLM) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        other = HopeForCausalLM(model.config)
    other.to_empty(device="cpu").initialize_weights(torch.Generator().manual_seed(0))
    return other.state_dict()


def test_bfloat16_autocast_runs_and_trains(model, ids):
    with torch.no_grad():
        for parameter in model.parameters():
            # as large as after training, not as in the other tests
            parameter.mul_(0.3)
    exact = model(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids[:, :20], use_cache=True)
        rest = model(ids[:, 20:], labels=ids[:, 20:], past_key_values=out.past_key_values)
    rest.loss.backward()
    found = torch.cat((out.logits, rest.logits), dim=1).float()
    assert relative_rms(found, exact) <= BFLOAT16_RELATIVE_RMS
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
