"""A model whose levels are written by the tokens that it reads."""

from collections.abc import Callable, Sequence
from operator import is_not
from typing import Any

import torch
from torch import Tensor

from nestling.continual.average import at_base, spans
from nestling.continual.digest import model_digest
from nestling.continual.gate import check_gate
from nestling.continual.seen import Seen
from nestling.continual.state import Options, Reading, State
from nestling.continual.stream import cut, segment_gradients
from nestling.continual.study.change import changed
from nestling.continual.study.record import Studied
from nestling.continual.text import Text
from nestling.continual.writing import gather_all, write_all
from nestling.core.error import UserError
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import LevelSpec, Stacked, parse_levels, stack_model
from nestling.rules.level import LevelState, due, new_level, weights_of

# called with the learner after each segment
After = Callable[[Any, Reading], None]


class LevelledModel:
    """Reads tokens as a stream and writes the levels of a model at their periods (regime R3).

    The model itself never changes: a level's weights are those of the model plus what has moved.
    ``state``, a value, is everything the next token depends on. Use ``ContinualLearner``, which
    also documents the arguments.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any | None = None,
        levels: str | Sequence[LevelSpec] | None = None,
        *,
        variant: str = "partition",
        options: Options = Options(),
        gate: str | None = None,
    ):
        if not isinstance(model, Stacked):
            wanted = parse_levels(levels) if isinstance(levels, str) else levels
            model = stack_model(model, tokenizer, wanted, variant)
        elif levels is not None:
            raise UserError("this model has its levels already; leave out levels")
        self.base = model
        self.text = Text(tokenizer if model.tokenizer is None else model.tokenizer)
        self.options = options
        self.gate = check_gate(gate)
        self.reader = FunctionalModel(model.model.eval())
        chosen = [i for i, level in enumerate(model.levels) if not level.frozen]
        self.levels = tuple(model.levels[i] for i in chosen)  # that are written, slow to fast
        self.parameters = tuple(model.parameters[i] for i in chosen)  # names, for each level
        self.writers = tuple(level.writer() for level in self.levels)
        self.sizes = cut(options, [writer.period for writer in self.writers], self.reader)
        fastest = self.writers[-1].period if self.writers else 1
        if not self.writers:
            _refuse_reading(options)
        self.spans = spans(options.averages, fastest)  # slow to fast
        # taken once: while another thread calls the model they are replaced
        self.own = own = {n: p.detach() for n, p in model.model.named_parameters()}
        self.start = tuple(tuple(own[n] for n in names) for names in self.parameters)
        erasing = [i for i, writer in enumerate(self.writers) if writer.rule == "dgd"]
        if erasing and options.surprise is not None:
            raise UserError("rule dgd needs every input; leave out surprise")
        self._watched = tuple(name for i in erasing for name in self.parameters[i])
        self.seen = Seen()  # memory files read and written
        self._digest: str | None = None
        self._made: dict[int, tuple[LevelState, tuple[Tensor, ...]]] = {}
        self._studied: tuple[Any, dict[str, Tensor]] | None = None  # cached weights with study
        self._school: Any = None
        self.studies = not self.levels  # whether text that is read is queued for study
        self.state = self._fresh()

    def _fresh(self) -> State:
        levels = tuple(self.fresh_level(index) for index in range(len(self.levels)))
        return State(levels, averages=(at_base(levels),) * len(self.spans))

    def fresh_level(self, index: int) -> LevelState:
        """A level at the base: nothing moved, no gradients accumulated."""
        inputs = self.reader.inputs(self.parameters[index])
        level = new_level(self.writers[index], self.start[index], 1, inputs)
        if self.levels[index].share is None:
            return level
        return level._replace(begin=tuple(map(torch.zeros_like, level.moved)))

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.reader.model.device

    @property
    def digest(self) -> str:
        """Fingerprint of the base model: sha256 of its weights and their assignment to levels."""
        if self._digest is None:
            self._digest = model_digest(self.base)
        return self._digest

    @property
    def tokens_read(self) -> int:
        """Tokens read since the memory was created, including those that wait."""
        return self.state.stream.tokens + len(self.state.stream.open_ids)

    def read_tokens(
        self, ids: Sequence[int], *, begins: bool = True, after: After | None = None
    ) -> Reading:
        """Read token ids, which continue the current document unless ``begins``.

        Splitting a text over several calls gives bit-identical results.
        """
        ids = tuple(int(i) for i in ids)
        reading = self._nothing()
        begins = begins or self.tokens_read == 0
        while ids:
            stream = self.state.stream
            room = self.sizes.segment - len(stream.open_ids)
            part, ids = ids[:room], ids[room:]
            starts = (*stream.open_starts, len(stream.open_ids)) if begins else stream.open_starts
            stream = stream._replace(open_ids=(*stream.open_ids, *part), open_starts=starts)
            state = count_tokens(self.state._replace(stream=stream), len(part))
            reading += Reading(tokens=len(part))
            begins = False
            if len(part) < room:
                self.state = state
                continue
            reading += self._segment(state)
            if after is not None:
                after(self, reading)
        return reading

    def _nothing(self) -> Reading:
        return Reading(writes=(0,) * len(self.levels))

    def finish(self) -> Reading:
        """Write the levels now, although their periods are not full; the periods start over.

        Call it at the end of a text that should count at once. Otherwise a level is written only at
        multiples of its period.
        """
        reading = self._segment(self.state, write=False)
        if not self.levels:
            return reading
        firing = [bool(level.terms > 0) for level in self.state.levels]
        state, writes = self._written(self.state, firing)
        fresh = [level._replace(seen=torch.zeros_like(level.seen)) for level in state.levels]
        self.state = state._replace(levels=tuple(fresh))
        return reading + Reading(writes=writes)

    def _segment(self, state: State, write: bool = True) -> Reading:
        """Read the open tokens of ``state``, accumulate gradients, write the levels that are
        due."""
        waiting = state.stream
        if not waiting.open_ids:
            return self._nothing()
        with self.reader.grams(self._watched) as grams:
            read = segment_gradients(
                self.reader,
                self.weights(grad=True, studied=()),
                waiting,
                self.sizes,
                self.options.surprise,
                self.device,
            )
        levels = gather_all(state.levels, self.parameters, read, len(waiting.open_ids), grams)
        pairs = zip(self.writers, levels, strict=True)
        firing = [write and bool(due(writer, level)) for writer, level in pairs]
        state = state._replace(levels=levels, stream=read.stream)
        self.state, writes = self._written(state, firing)
        return Reading(scored=read.scored, nats=read.nats, learned=read.learned, writes=writes)

    def _written(self, state: State, firing: Sequence[bool]) -> tuple[State, tuple[int, ...]]:
        """Write the levels that fire, and the averages; also returns the number of writes per
        level."""
        shares = [level.share for level in self.levels]
        return write_all(self.writers, self.start, shares, self.spans, state, firing)

    def weights(
        self, *, grad: bool = False, studied: Sequence[Studied] | None = None
    ) -> dict[str, Tensor]:
        """The current weights of the levels, by parameter name.

        The changes of these studied documents are added; by default of all.
        """
        found = {}
        for index, (names, start, level) in enumerate(
            zip(self.parameters, self.start, self.state.levels, strict=True)
        ):
            old = self._made.get(index)
            if old is None or old[0].moved is not level.moved:
                made = tuple(
                    w[0].to(s.dtype) for w, s in zip(weights_of(start, level), start, strict=True)
                )
                old = self._made[index] = (level, made)
            found.update(zip(names, old[1], strict=True))
        chosen = self.state.studied if studied is None else tuple(studied)
        if chosen:
            found |= self._with_study(found, chosen)
        if grad:
            return {name: value.detach().requires_grad_() for name, value in found.items()}
        return found

    def _with_study(
        self, found: dict[str, Tensor], studied: Sequence[Studied]
    ) -> dict[str, Tensor]:
        """The weights of the levels with the changes of documents added; the last are kept."""
        key = (*studied, *found.values())
        old = self._studied
        if old is None or len(old[0]) != len(key) or any(map(is_not, old[0], key)):
            changes = [one.change for one in studied]
            start = {name: self.own[name] for change in changes for name in change} | found
            old = self._studied = (key, changed(start, changes))
        return old[1]


def _refuse_reading(options: Options) -> None:
    """Raise UserError if an option is set that matters only where reading writes levels."""
    for name in ("segment", "surprise", "averages"):
        if getattr(options, name) is not None:
            raise UserError(
                f"{name} has no effect: reading writes no level of this model, which learns by "
                "study; leave it out, or adapt the model with levels (nestling adapt --levels)"
            )


def count_tokens(state: State, tokens: int) -> State:
    """The state after reading ``tokens`` more of its last document, if there is one."""
    if not state.documents:
        return state
    last = state.documents[-1]
    last = last._replace(read=min(last.read + tokens, last.tokens))
    return state._replace(documents=(*state.documents[:-1], last))
