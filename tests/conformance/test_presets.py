"""Conformance tests for every preset: size, initial loss, gradients, streaming, causality."""

import functools
import itertools
import math

import pytest
import torch
from tolerances import assert_close

from nestling.models import HopeForCausalLM, configure, create, preset, preset_names
from nestling.models.presets import FAMILIES, SIZES

# one layer of each, so that the large ones fit into a test
ONE_LAYER = {"vocab_size": 64, "num_hidden_layers": 1}
TWO_LAYERS = {"vocab_size": 64, "num_hidden_layers": 2}
TINY = [f"{family}-tiny" for family in FAMILIES]
# each family in one of the larger sizes, and the largest with fewer of them
LARGER = [
    f"{family}-{size}"
    for family, size in zip(FAMILIES, itertools.cycle((*["small"] * 7, "340m", "760m", "1.3b")))
]
SLOW = pytest.mark.slow
OTHERS = [name for name in preset_names() if name not in (*TINY, *LARGER)]
ABLATIONS = [
    ("hope-tiny", {"writes": False}),
    ("hope-tiny", {"adaptive_q": True}),
    ("transformer-tiny", {"short_convolution": True}),
]
every_tiny = pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in TINY] + ABLATIONS,
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)


def on_meta(name: str, **overrides) -> HopeForCausalLM:
    with torch.device("meta"):
        return HopeForCausalLM(configure(name, **overrides))


@functools.cache
def in_blocks(name: str, **overrides: int) -> int:
    """Parameters without the embedding and the head; initial states are parameters."""
    return sum(p.numel() for p in on_meta(name, **overrides).backbone.blocks.parameters())


def text(batch: int, length: int, vocabulary: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def test_every_family_comes_in_every_size():
    assert set(preset_names()) == {f"{family}-{size}" for family in FAMILIES for size in SIZES}
    for name in preset_names():
        assert set(preset(name)) <= set(configure(name).to_dict())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "transformer"])
def test_parameters_match_the_transformer_of_the_size_within_two_percent(family, size):
    reference = in_blocks(f"transformer-{size}")
    name = f"{family}-{size}"
    found = in_blocks(name)
    assert abs(found / reference - 1) < 0.02, fitting_width(name, found, reference)


def fitting_width(name: str, found: int, reference: int) -> str:
    """The ``feed_forward`` width of the family at which the parameters match."""
    last = preset(name)["pattern"][-1]
    width = preset(name)["memories"].get(last, {}).get("intermediate_size")
    if width is None:
        return f"{name} has {found} parameters in its blocks, Transformer++ {reference}"
    wider = in_blocks(name, **{f"{last}.intermediate_size": width + 16})
    fitting = width + 16 * round((reference - found) / (wider - found))
    return f"{name}: {found} parameters for {reference}; {width} -> {fitting} in presets.py"


@pytest.mark.parametrize(("size", "millions"), [("340m", 340), ("760m", 760), ("1.3b", 1300)])
def test_parameter_counts_match_size_names_at_32k_vocabulary(size, millions):
    model = on_meta(f"transformer-{size}", vocab_size=32768)
    assert abs(model.num_parameters() / 1e6 / millions - 1) < 0.1


@torch.no_grad()
def assert_streamed(model: HopeForCausalLM, ids: torch.Tensor, *splits: list[int]) -> None:
    """Reading in pieces gives the same logits as reading at once."""
    whole = model(ids).logits
    for cuts in splits:
        cache, outputs = None, []
        for piece in ids.split(cuts, dim=1):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            outputs.append(out.logits)
        assert_close(torch.cat(outputs, 1), whole)


@pytest.mark.parametrize("name", TINY)
def test_streaming_in_any_split_equals_the_full_forward(name):
    # token by token at the start and across period ends, of 16 and of 32 tokens
    singles = [*[1] * 4, 10, *[1] * 4, 12, *[1] * 4, 3]
    model, ids = create(name, **ONE_LAYER), text(2, sum(singles))
    assert_streamed(model, ids, singles, [3, 14, 1, 19])


@pytest.mark.parametrize("name", [*LARGER, *(pytest.param(n, marks=SLOW) for n in OTHERS)])
def test_streaming_in_larger_sizes_equals_the_full_forward(name):
    assert_streamed(create(name, **ONE_LAYER), text(2, 20), [3, 14, 1, 2])


@every_tiny
@torch.no_grad()
def test_initial_loss_is_near_uniform(name, options):
    model, ids = create(name, **options), text(1, 64, 4096)
    loss = model(ids, labels=ids).loss.item()
    assert abs(loss / math.log(4096) - 1) < 0.05


@every_tiny
def test_every_parameter_gets_a_gradient_at_initialisation(name, options):
    model, ids = create(name, **TWO_LAYERS, **options), text(1, 80)
    model(ids, labels=ids).loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    if options == {"writes": False}:
        # nothing is written, so the gates of the writes are not read
        assert {n.split(".")[-1].split("_")[0] for n in dead} == {"eta", "alpha", "mu"}
    else:
        assert not dead


@every_tiny
def test_causality_and_row_independence(name, options):
    model, ids = create(name, **ONE_LAYER, **options), text(2, 50)
    with torch.no_grad():
        whole = model(ids).logits
        other = ids.clone()
        other[:, 33:] = (other[:, 33:] + 7) % 64
        changed = model(other).logits
        torch.testing.assert_close(changed[:, :33], whole[:, :33], rtol=0, atol=1e-6)
        assert not torch.allclose(changed[:, 33:], whole[:, 33:])
        for row in range(2):
            assert_close(model(ids[row : row + 1]).logits, whole[row : row + 1])


@every_tiny
def test_generation_from_padded_prompts_matches_full_forward(name, options):
    model, ids, lengths = create(name, **ONE_LAYER, **options), text(2, 11), (11, 5)
    mask = torch.ones_like(ids)
    mask[1, : 11 - lengths[1]] = 0
    new = 6
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    for row, length in zip(out, lengths, strict=True):
        alone = row[None, 11 - length :]
        with torch.no_grad():
            logits = model(alone).logits[0, length - 1 : -1]
        chosen = logits.gather(1, alone[0, length:, None])[:, 0]
        # two equally likely tokens may swap
        assert (logits.amax(1) - chosen < 1e-4).all()


@every_tiny
def test_a_document_start_inside_a_row_equals_a_fresh_row(name, options):
    model, ids = create(name, **ONE_LAYER, **options), text(2, 40)
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[0, 17] = reset[1, 23] = True
    with torch.no_grad():
        whole = model(ids, reset=reset).logits
        assert_close(whole[:1, 17:], model(ids[:1, 17:]).logits)
        assert_close(whole[1:, 23:], model(ids[1:, 23:]).logits)


@every_tiny
@torch.no_grad()
def test_save_and_load_round_trip(name, options, tmp_path):
    model, ids = create(name, **TWO_LAYERS, **options), text(2, 40)
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    tied = loaded.lm_head.weight is loaded.backbone.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings


@every_tiny
def test_seed_sets_weights_and_global_rng_is_untouched(name, options):
    before = torch.get_rng_state()
    first, again, other = (create(name, **ONE_LAYER, seed=s, **options) for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for (key, a), b, c in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert a.isfinite().all(), key
        assert torch.equal(a, b), key
        # norms, the biases of gates and the decays of Mamba start at set values
        drawn = a.ndim > 1 and not key.endswith("log_decay")
        assert not (drawn and torch.equal(a, c)), key
