"""Keywords with which other libraries call a model: hidden states, packing, labels and others."""

import pytest
import torch
from small_models import FAMILIES, small
from tolerances import assert_close
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from nestling.core.error import UserError
from nestling.models import HopeForCausalLM, create

LENGTHS = (9, 17, 11)  # of three documents in a row of 37


def starts() -> torch.Tensor:
    reset = torch.zeros(1, sum(LENGTHS), dtype=torch.bool)
    reset[0, [0, 9, 26]] = True
    return reset


PACKED = {
    "position_ids": lambda: torch.cat([torch.arange(n) for n in LENGTHS])[None],
    "cu_seqlens": lambda: torch.tensor([0, 9, 26, 37], dtype=torch.int32),
    "cu_seq_lens_q": lambda: torch.tensor([0, 9, 26, 37, 37], dtype=torch.int32),
    "seq_idx": lambda: torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS)])[None],
}


@pytest.fixture
def in_context() -> HopeForCausalLM:
    """Levels that learn from the next token: read in segments, some of them twice."""
    return create(
        "transformer-tiny",
        pattern=("attention", "cms_context"),
        vocab_size=97,
        hidden_size=16,
        num_hidden_layers=2,
        num_heads=2,
        num_kv_heads=1,
        periods=(4, 8),
        intermediate_size=8,
        objective="ntp",
        through="first",
    )


def test_hidden_states_are_embedding_and_pattern_outputs(model, ids):
    found = []
    last = len(model.config.pattern)
    for index, block in enumerate(model.backbone.blocks):
        if (index + 1) % last == 0:
            block.register_forward_hook(lambda module, args, out: found.append(out[0]))
    out = model(ids, output_hidden_states=True)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(ids))
    assert torch.equal(out.hidden_states[1], found[0])
    assert torch.equal(out.hidden_states[-1], model.backbone.norm(found[-1]))
    assert torch.equal(model.lm_head(out.hidden_states[-1]), out.logits)
    assert model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert torch.equal(model(ids).hidden_states[1], out.hidden_states[1])


@pytest.mark.parametrize("learning", [True, False])
def test_hidden_states_with_segmented_levels(in_context, ids, learning):
    with torch.set_grad_enabled(learning):
        out = in_context(ids, output_hidden_states=True)
        assert [tuple(h.shape) for h in out.hidden_states] == [(3, 37, 16)] * 3
        assert_close(in_context.lm_head(out.hidden_states[-1]), out.logits)
        cache, parts = None, []
        for piece in ids.split([3, 14, 1, 19], dim=1):
            part = in_context(
                piece, past_key_values=cache, use_cache=True, output_hidden_states=True
            )
            cache = part.past_key_values
            parts.append(part.hidden_states)
        for whole, pieces in zip(out.hidden_states, zip(*parts, strict=True), strict=True):
            assert_close(torch.cat(pieces, 1), whole)


def test_hidden_states_align_with_padded_tokens(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[1, 20:24] = mask[2, 30:] = 0
    out = model(ids, attention_mask=mask, output_hidden_states=True)
    alone = model(ids[1:2][:, mask[1].bool()], output_hidden_states=True)
    for padded, single in zip(out.hidden_states, alone.hidden_states, strict=True):
        assert_close(padded[1:2][:, mask[1].bool()], single)


def test_harmless_keywords_are_accepted(model, ids):
    harmless = {
        "output_attentions": False,
        "cache_position": torch.arange(37),
        "token_type_ids": torch.zeros_like(ids),
        "position_ids": torch.arange(37)[None],
        "max_length_q": 37,
        "max_length_k": 37,
        "seq_idx": None,
        "return_dict": None,
    }
    assert torch.equal(model(ids, **harmless).logits, model(ids).logits)
    assert isinstance(model(ids, return_dict=False), tuple)
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)


def test_unsupported_keywords_are_refused_in_one_line(model, ids):
    with pytest.raises(UserError, match="attention weights"):
        model(ids, output_attentions=True)
    with pytest.raises(UserError, match="'seq_id'.*seq_idx"):
        model(ids, seq_id=starts())
    with pytest.raises(UserError, match=r"position_ids is \[2, 37\]"):
        model(ids, position_ids=torch.zeros(2, 37))
    with pytest.raises(UserError, match="one row"):
        model(ids, cu_seqlens=torch.tensor([0, 37]))
    for wrong in ([0, 36], [1, 37], [0, 20, 10, 37], [37]):
        with pytest.raises(UserError, match="increase from 0 to 37"):
            model(ids[:1], cu_seqlens=torch.tensor(wrong))


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_of_every_kind_equal_each_document_alone(model, ids, name):
    row = ids[:1]
    out = model(row, labels=row, **{name: PACKED[name]()})
    expected = model(row, labels=row, reset=starts())
    assert torch.equal(out.logits, expected.logits)
    assert torch.equal(out.loss, expected.loss)
    for piece, logits in zip(row.split(LENGTHS, 1), out.logits.split(LENGTHS, 1), strict=True):
        assert_close(logits, model(piece).logits)


def test_position_zero_resets_the_cache(model, ids):
    def after(**more):
        cache = model(ids[:, :20], use_cache=True).past_key_values
        return model(ids[:, 20:], past_key_values=cache, **more).logits

    assert torch.equal(after(position_ids=torch.arange(20, 37)[None]), after())
    assert_close(after(position_ids=torch.arange(17)[None]), model(ids[:, 20:]).logits)


def test_position_zero_of_padding_is_ignored(model, ids):
    """Libraries count positions along the mask and set the rest to 0."""
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[1, 20:24] = mask[2, 30:] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)
    given = {"attention_mask": mask, "use_cache": True}
    out, plain = model(ids, position_ids=positions, **given), model(ids, **given)
    assert_close(out.logits[mask.bool()], plain.logits[mask.bool()])
    on = [model(ids, past_key_values=o.past_key_values).logits for o in (out, plain)]
    assert_close(*on)


COLLATORS = ({}, {"return_position_ids": False, "return_seq_idx": True},
             {"return_flash_attn_kwargs": True})  # fmt: skip


@pytest.mark.parametrize(
    ("family", "options"),
    [
        # every family and every form of the collator; all combinations are slow tests
        pytest.param(family, options, marks=[] if i == j else [pytest.mark.slow])
        for i, family in enumerate(FAMILIES)
        for j, options in enumerate(COLLATORS)
    ],
)
def test_trainer_with_padding_free_collator(family, options, ids, tmp_path):
    model = small(family)
    rows = [{"input_ids": row[:n].tolist()} for row, n in zip(ids, LENGTHS, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        max_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )
    collator = DataCollatorWithFlattening(**options)
    losses = [
        torch.nn.functional.cross_entropy(
            model(row[None, :n]).logits[0, :-1], row[1:n], reduction="sum"
        )
        for row, n in zip(ids, LENGTHS, strict=True)
    ]
    expected = sum(losses) / (sum(LENGTHS) - 3)
    seen = []
    model.register_forward_hook(lambda module, args, out: seen.append(out.loss.detach().clone()))
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    assert_close(seen[0], expected.detach())


def test_shift_labels_give_the_same_loss(model, ids):
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, 12] = True
    expected = model(ids, labels=ids, reset=reset).loss
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert_close(model(ids, shift_labels=shifted, reset=reset).loss, expected)
    # as Trainer does with rows on several devices
    assert_close(model(ids, labels=ids, shift_labels=shifted, reset=reset).loss, expected)


def test_trainer_evaluation_finds_the_labels(hope, ids, tmp_path):
    """A second argument name containing `label` would make Trainer expect those labels too."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model=hope, args=arguments, eval_dataset=rows)
    assert trainer.label_names == ["labels"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(hope(ids, labels=ids).loss.item())


def test_generation_accepts_tokenizer_outputs(model, ids):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids[:, :9], attention_mask=torch.ones_like(ids[:, :9]), **options)
    tokenized = {
        "input_ids": ids[:, :9],
        "attention_mask": torch.ones_like(ids[:, :9]),
        "token_type_ids": torch.zeros_like(ids[:, :9]),
    }
    assert torch.equal(model.generate(**tokenized, **options), plain)
    states = model.generate(
        **tokenized, **options, return_dict_in_generate=True, output_hidden_states=True
    ).hidden_states
    assert [h[-1].shape[1] for h in states] == [9, 1, 1, 1]


def test_generation_from_a_cache_works_with_any_mask(model, ids):
    """generate counts positions along the mask; if that hides the past, new text starts at 0."""
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    sequences = []
    for hidden in (0, 28):
        cache = model(ids[:, :28], use_cache=True).past_key_values
        mask = torch.ones_like(ids)
        mask[:, :hidden] = 0
        out = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
        sequences.append(out)
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(sequences[0], whole)
    assert torch.equal(sequences[1], whole)
