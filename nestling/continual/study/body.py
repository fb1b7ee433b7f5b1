"""The part of a model that study runs through: the layers it writes, read many texts at a time.

What lies below the written layers never changes, so its output is computed once for each text and
kept; what lies above is run in every step, all texts of a step side by side in one row.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.continual.study.side import Side, neighbours
from nestling.models.functional import FunctionalModel
from nestling.models.hf import HopeForCausalLM
from nestling.models.pretrained.apart import Layout, apart, layout
from nestling.models.pretrained.families import family_of

Ids = tuple[int, ...]
T = TypeVar("T")
ROW = 512  # tokens of one row where texts are read that are not learned
NARROW = 2048  # tokens: within a wider window of attention whatever is studied fits
CLOSE = 1e-3  # how far logits of both ways to read may differ, as a share of the largest


class Entry(NamedTuple):
    """A text as a body reads it."""

    ids: Ids
    begins: bool  # whether it goes on after the body's opening
    states: Tensor | None = None  # [T, D] below the written layers, if they are kept


class Body(ABC):
    """Reads texts with weights that are handed in, and says what follows at some places.

    ``opening`` are tokens that many texts begin with (a chat template's); they are read once a row.
    """

    def __init__(self, reader: FunctionalModel, opening: Ids = ()):
        self.reader = reader
        self.opening = opening
        self.side = Side(reader.model.device)

    @abstractmethod
    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """Texts made ready; with True they go on after the opening."""

    @abstractmethod
    def features(
        self, weights: Mapping[str, Tensor], entries: Sequence[Entry], places: Sequence[slice]
    ) -> list[Float[Tensor, "N F"]]:
        """What is known at some places of each text: all that ``logits`` needs, and no more."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N V"]:
        """The logits of the next token."""

    def together(self, weights: Mapping[str, Tensor], function: Callable[[], T]) -> T:
        """``function()``, in which several threads may ask for features with no weights: these."""
        return self.reader.call(weights, lambda _: function())


class Whole(Body):
    """Any model, from its first layer on; texts are rows of a batch."""

    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """Nothing to be made."""
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
        """They are there already."""
        return features


class Cut(Body):
    """A model of transformers above some layer; texts lie behind each other in one row.

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
        """States of texts; each continues the opening after the number of tokens given with it."""
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
        where = layout(len(head), lengths, [bool(b) for _, b in row], device)
        ids = torch.tensor([[*head, *(i for text, _ in row for i in text)]], device=device)
        out = self._read(self._below, where, input_ids=ids)[len(head) :]
        return [part.clone() for part in out.split(lengths)]

    def together(self, weights: Mapping[str, Tensor], function: Callable[[], T]) -> T:
        """As a body does; how the layers attend is set once for all."""
        with apart(self._layers):
            return super().together(weights, function)

    def _read(self, part: Any, where: Layout, **given: Tensor) -> Float[Tensor, "T D"]:
        """The last hidden states of a row."""
        with apart(self._layers):
            return part(
                attention_mask=where.seen,
                position_ids=where.places[None],
                layout=where,
                use_cache=False,
                **given,
            ).last_hidden_state[0]

    def entries(self, texts: Sequence[tuple[Ids, bool]]) -> list[Entry]:
        """The states below the written layers are computed now."""
        states = self._read_below([(ids, len(self.opening) * begins) for ids, begins in texts])
        pairs = zip(texts, states, strict=True)
        return [Entry(ids, begins, state) for (ids, begins), state in pairs]

    def features(
        self, weights: Mapping[str, Tensor], entries: Sequence[Entry], places: Sequence[slice]
    ) -> list[Float[Tensor, "N F"]]:
        """The last hidden states, normed."""
        begins = [entry.begins for entry in entries]
        opened = self._opened if any(begins) else None
        head = 0 if opened is None else len(opened)
        states = [entry.states for entry in entries if entry.states is not None]
        lengths = [len(state) for state in states]
        row = torch.cat([*([] if opened is None else [opened]), *states])[None]
        where = layout(head, lengths, begins, row.device)
        out = self.reader.call(
            weights, lambda _: self._read(self._above, where, inputs_embeds=row)[head:]
        )
        return [part[place] for part, place in zip(out.split(lengths), places, strict=True)]

    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N V"]:
        """The model's head."""
        return self.reader.model.get_output_embeddings()(features).float()


def _part(inside: Any, name: str, layers: list[nn.Module], *, closed: bool) -> Any:
    """The inner model with some of its layers, sharing every module; open: without a last norm."""
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
    """Whether a model may be told who sees whom: it has no narrow windows of its own."""
    if isinstance(model, HopeForCausalLM):
        return False
    window = getattr(model.config, "sliding_window", None)
    return window is None or window >= NARROW


def body(reader: FunctionalModel, first: int, opening: Ids = ()) -> Body:
    """The fastest body that says what the model says.

    A model whose layers cannot be read in parts, or not side by side, is read whole.
    """
    whole = Whole(reader, opening)
    if first < 1 or not takes_masks(reader.model):
        return whole
    try:
        cut = Cut(reader, first, opening)
        return cut if _agree(cut, whole) else whole
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return whole  # of no certain class: the inside of a model that others wrote


@torch.no_grad()
def _agree(cut: Body, whole: Body) -> bool:
    """Whether both say the same of two short texts."""
    size = cut.reader.model.config.vocab_size
    drawn = [(7 * i + 3) % size for i in range(13)]
    texts = [(tuple(drawn[:5]), False), (tuple(drawn[5:]), bool(cut.opening))]
    places = [slice(0, len(ids)) for ids, _ in texts]
    found = [
        torch.cat([each.logits(f) for f in each.features({}, each.entries(texts), places)])
        for each in (cut, whole)
    ]
    return bool((found[0] - found[1]).abs().max() <= CLOSE * found[1].abs().max())
