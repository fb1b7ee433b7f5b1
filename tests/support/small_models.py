"""Small models of every family, for tests."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nestling.models import HopeForCausalLM, create

FAMILIES = ("hope", "hope-attention", "transformer")
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2}
# with a tied head an untrained model repeats the last token
SMALL["tie_word_embeddings"] = False
OPTIONS = {
    "hope": {"self_titans.period": 8, "self_titans.projection_period": 4},
    "hope-attention": {"num_kv_heads": 1, "short_convolution": True},
    "transformer": {"num_kv_heads": 1},
}


def small(family: str, **overrides) -> HopeForCausalLM:
    """A model of a family with two layers of width 32 and enlarged weights, so that predictions
    depend on the context.
    """
    options = {**SMALL, "intermediate_size": 24, **OPTIONS[family], **overrides}
    model = create(f"{family}-tiny", **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "eta" not in name and "alpha" not in name:
                parameter.normal_(std=0.3, generator=generator)
    return model


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of 97 words: two special ones and the numbers to 94."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[EOS]", *map(str, range(95))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[EOS]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", padding_side="left"
    )
