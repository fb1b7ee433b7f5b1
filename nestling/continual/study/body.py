"""The part of a model that study runs: the written layers, on many texts at a time.

The layers below the written ones never change, so their output is computed once per text and
cached. The layers above run in every step, with all texts of a step packed into one row.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.continual.study.precision import HEAD, LAYERS, missing, mixed
from nestling.continual.study.side import Side, neighbours
from nestling.models.functional import FunctionalModel
from nestling.models.hf import HopeForCausalLM
from nestling.models.pretrained.apart import Layout, apart, layout
from nestling.models.pretrained.families import family_of

Ids = tuple[int, ...]
T = TypeVar("T")
ROW = 512  # tokens per row for texts that are not trained on
NARROW = 2048  # tokens; any studied text fits into an attention window of at least this size
CLOSE = 1e-3  # maximum difference of logits between both ways to read, relative to the largest


class Entry(NamedTuple):
    """A text prepared for a body."""

    ids: Ids
    begins: bool  # whether it follows the body's opening
    states: Tensor | None = None  # [T, D], cached output of the layers below the written ones


class Body(ABC):
    """Reads texts with given weights, and predicts the next token at some places.

    ``opening`` are tokens that many texts start with (of a chat template), read once per row. With
    ``fast``, products are in bfloat16 where the processor has it.
    """

    fast = False

    def __init__(self, reader: FunctionalModel, opening: Ids = ()):
        self.reader = reader
        self.opening = opening
        self.side = Side(reader.model.device)

    @abstractmethod
    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """Prepare texts; those with True follow the opening."""

    @abstractmethod
    def features(
        self, weights: Mapping[str, Tensor], entries: Sequence[Entry], places: Sequence[slice]
    ) -> list[Float[Tensor, "N F"]]:
        """The features at some places of each text, from which ``logits`` follow."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N V"]:
        """The logits of the next token."""

    def together(self, weights: Mapping[str, Tensor], function: Callable[[], T]) -> T:
        """Call ``function``, whose threads may ask for features with weights None: these ones."""
        return self.reader.call(weights, lambda _: function())


class Whole(Body):
    """A body for any model, run from its first layer on; texts are rows of a batch."""

    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """Wrap the texts; nothing is precomputed."""
        return [Entry(ids, begins) for ids, begins in texts]

    def features(
        self, weights: Mapping[str, Tensor], entries: Sequence[Entry], places: Sequence[slice]
    ) -> list[Float[Tensor, "N F"]]:
        """The logits."""
        heads = [len(self.opening) if entry.begins else 0 for entry in entries]
        rows = [(*self.opening, *entry.ids) if entry.begins else entry.ids for entry in entries]
        longest = max(map(len, rows))
        filled = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        ids = filled.to(self.reader.model.device)
        found = self.reader.call(
            weights, lambda model: model(input_ids=ids, use_cache=False).logits
        )
        return [
            found[row, head + place.start : head + place.stop].float()
            for row, (head, place) in enumerate(zip(heads, places, strict=True))
        ]

    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N V"]:
        """The features, which are the logits already."""
        return features


class Cut(Body):
    """A body for transformers models, cut below the written layers; texts are packed into a row.

    ``first`` is the lowest layer that is written.
    """

    def __init__(self, reader: FunctionalModel, first: int, opening: Ids = ()):
        super().__init__(reader, opening)
        model = reader.model
        place = family_of(model.config.model_type).layers
        inside = model.get_submodule(place.rpartition(".")[0])
        name = place.rpartition(".")[2]
        layers = list(inside.get_submodule(name))
        self._layers = layers
        self._below = _part(inside, name, layers[:first], closed=False)
        self._above = _part(inside, name, layers[first:], closed=True)
        with torch.no_grad():
            self._opened = self._read_below([(opening, 0)])[0] if opening else None

    def _read_below(self, texts: Sequence[tuple[Ids, int]]) -> list[Tensor]:
        """The states of texts; each follows the first tokens of the opening, as many as given."""
        head = self._opened_ids(texts)
        rows = [texts[row] for row in neighbours([len(ids) for ids, _ in texts], ROW)]
        found = self.together(
            {}, lambda: self.side.map(lambda row: self._row_below(head, row), rows)
        )
        return [states for row in found for states in row]

    def _opened_ids(self, texts: Sequence[tuple[Ids, int]]) -> Ids:
        return self.opening if any(behind for _, behind in texts) else ()

    @torch.no_grad()
    def _row_below(self, head: Ids, row: Sequence[tuple[Ids, int]]) -> list[Tensor]:
        device = self.reader.model.device
        lengths = [len(ids) for ids, _ in row]
        ids = [*head, *(i for text, _ in row for i in text)]
        rest = self._missing(len(ids), LAYERS)
        where = layout(len(head), lengths, [bool(b) for _, b in row], device, rest)
        given = torch.tensor([[*ids, *[0] * rest]], device=device)
        out = self._read(self._below, where, input_ids=given)[len(head) :]
        return [part.clone() for part in out.split([*lengths, rest])[: len(lengths)]]

    def together(self, weights: Mapping[str, Tensor], function: Callable[[], T]) -> T:
        """``Body.together``; the attention of the layers is set up once for all threads."""
        with apart(self._layers):
            return super().together(weights, function)

    def _read(self, part: Any, where: Layout, **given: Tensor) -> Float[Tensor, "T D"]:
        """The final hidden states of a row."""
        with apart(self._layers), mixed(self.reader.model.device, self.fast):
            return part(
                attention_mask=where.seen,
                position_ids=where.places[None],
                layout=where,
                use_cache=False,
                **given,
            ).last_hidden_state[0]

    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """Compute the states below the written layers."""
        states = self._read_below([(ids, len(self.opening) * begins) for ids, begins in texts])
        pairs = zip(texts, states, strict=True)
        return [Entry(ids, begins, state) for (ids, begins), state in pairs]

    def features(
        self, weights: Mapping[str, Tensor], entries: Sequence[Entry], places: Sequence[slice]
    ) -> list[Float[Tensor, "N F"]]:
        """The final hidden states, after the norm."""
        begins = [entry.begins for entry in entries]
        opened = self._opened if any(begins) else None
        head = 0 if opened is None else len(opened)
        states = [entry.states for entry in entries if entry.states is not None]
        lengths = [len(state) for state in states]
        row = torch.cat([*([] if opened is None else [opened]), *states])
        rest = self._missing(len(row), LAYERS)
        row = functional.pad(row, (0, 0, 0, rest))[None]
        where = layout(head, lengths, begins, row.device, rest)
        out = self.reader.call(
            weights, lambda _: self._read(self._above, where, inputs_embeds=row)[head:]
        )
        parts = out.split([*lengths, rest])
        return [part[place] for part, place in zip(parts, places, strict=False)]

    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N V"]:
        """The logits, from the model's head."""
        count, rest = len(features), self._missing(len(features), HEAD)
        given = functional.pad(features, (0, 0, 0, rest)) if rest else features
        with mixed(self.reader.model.device, self.fast):
            found = self.reader.model.get_output_embeddings()(given)
        return found[:count].float()

    def _missing(self, count: int, size: int) -> int:
        return missing(count, size, self.reader.model.device, self.fast)


def _part(inside: Any, name: str, layers: list[nn.Module], *, closed: bool) -> Any:
    """The inner model with only some layers, sharing all modules; unless ``closed``, no norm."""
    part = copy.copy(inside)
    part._modules = dict(inside._modules)
    part._modules[name] = nn.ModuleList(layers)
    config = copy.copy(inside.config)
    config.num_hidden_layers = len(layers)
    part.config = config
    if not closed:
        last = [child for child in ("norm", "ln_f") if child in part._modules]
        for child in last:
            part._modules[child] = nn.Identity()
    return part


def takes_masks(model: Any) -> bool:
    """Whether a model accepts attention masks: it has no narrow windows of its own."""
    if isinstance(model, HopeForCausalLM):
        return False
    window = getattr(model.config, "sliding_window", None)
    return window is None or window >= NARROW


def body(reader: FunctionalModel, first: int, opening: Ids = ()) -> Body:
    """The fastest body with the same predictions as the model.

    A model whose layers cannot be run in parts, or on packed texts, is run whole.
    """
    whole = Whole(reader, opening)
    if first < 1 or not takes_masks(reader.model):
        return whole
    try:
        cut = Cut(reader, first, opening)
        return cut if _agree(cut, whole) else whole
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return whole  # the inside of third-party models may raise anything


@torch.no_grad()
def _agree(cut: Body, whole: Body) -> bool:
    """Whether both give the same predictions for two short texts."""
    size = cut.reader.model.config.vocab_size
    drawn = [(7 * i + 3) % size for i in range(13)]
    texts = [(tuple(drawn[:5]), False), (tuple(drawn[5:]), bool(cut.opening))]
    places = [slice(0, len(ids)) for ids, _ in texts]
    found = [
        torch.cat([each.logits(f) for f in each.features({}, each.entries(texts), places)])
        for each in (cut, whole)
    ]
    return bool((found[0] - found[1]).abs().max() <= CLOSE * found[1].abs().max())
