"""Models that name a text, or every token of it, instead of going on with it."""

from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

from nestling.models.auto import announce
from nestling.models.base import HopePreTrainedModel


class HopeForSequenceClassification(GenericForSequenceClassification, HopePreTrainedModel):
    """A linear map of the hidden state at the last token of a text that is no padding.

    That is the last one that is not ``config.pad_token_id``, as in all models of transformers.
    """

    base_model_prefix = HopePreTrainedModel.base_model_prefix
    accepts_loss_kwargs = False  # the loss is a mean over the rows of a call


class HopeForTokenClassification(GenericForTokenClassification, HopePreTrainedModel):
    """A linear map of the hidden state at every token; a token knows what came before it alone."""

    base_model_prefix = HopePreTrainedModel.base_model_prefix
    accepts_loss_kwargs = False  # the loss is a mean over the tokens of a call


announce(
    HopeForSequenceClassification,
    "AutoModelForSequenceClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
)
announce(
    HopeForTokenClassification,
    "AutoModelForTokenClassification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
)
