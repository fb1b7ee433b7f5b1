"""Models that classify a text or each of its tokens."""

from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

from nestling.models.auto import announce
from nestling.models.base import HopePreTrainedModel


class HopeForSequenceClassification(GenericForSequenceClassification, HopePreTrainedModel):
    """Classifies a text by its last non-padding token.

    That is the last one that is not ``config.pad_token_id``, as in all models of transformers.
    """

    base_model_prefix = HopePreTrainedModel.base_model_prefix
    accepts_loss_kwargs = False  # the loss is a mean over the rows of a call


class HopeForTokenClassification(GenericForTokenClassification, HopePreTrainedModel):
    """Classifies every token, from what came before it."""

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
