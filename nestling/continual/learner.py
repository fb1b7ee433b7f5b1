"""A model that keeps learning from what it reads, and stores what it learned separately."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.average import without
from nestling.continual.digest import token_digest
from nestling.continual.gate import experts, seats
from nestling.continual.levelled import After, LevelledModel, count_tokens
from nestling.continual.record import restore_state, save_state
from nestling.continual.state import Document, Reading, no_level
from nestling.continual.stream import read_alone
from nestling.continual.study.form import END, PLAIN
from nestling.continual.study.plan import Plan
from nestling.continual.study.recall import Answer, answered
from nestling.continual.study.record import Studied, Waiting, find_studied, subject_named
from nestling.continual.study.routing import concerned, names, with_change_of
from nestling.continual.study.study import School, Show, study_next
from nestling.core.error import UserError
from nestling.core.mixture import SHARE, followed
from nestling.data.lock import locked
from nestling.models.mixed import generate_mixed
from nestling.models.pretrained import RANK
from nestling.rules.level import restart


class ContinualLearner(LevelledModel):
    """Reads text as a stream and writes the levels of a model at their periods (regime R3).

    The model itself never changes: a level's weights are ``W = base + moved``, and ``moved`` is the
    memory. Each level accumulates the gradients of the next-token losses over its period and is
    written when the period is full, by its rule (``nestling.rules.level``). A level with a
    ``share`` is nested: whenever the next slower one is written, it is reset to its starting point
    after its own write (``nestling.rules.level.rewind``). ``state``, a value, is everything the
    next token depends on.

    ``model`` is a HopeForCausalLM, a causal language model of transformers whose family is known,
    or a ``Stacked`` one. ``levels`` is text as in ``--levels`` or a sequence of LevelSpec; None
    uses the levels that the model has. ``gate`` (``nestling.continual.gate``) mixes the current
    model with the model without its levels when text is scored or generated, so that what was
    learned costs little on text where it does not help. ``Options.averages`` adds slower experts:
    running averages of the levels, each over a number of tokens. At every write of the fastest
    level they move towards the new weights by the fraction period / span. A learner is not
    thread-safe.

    Source: arXiv 2512.24695, Eq 71-72 and section 7.3. Deviates: the gradient is cut where a
    segment begins (``Options.segment``), and cached keys and values of earlier tokens are not
    recomputed when a level is written; the paper specifies neither.
    """

    # reading

    def read(
        self,
        text: str,
        *,
        name: str = "",
        about: str = "",
        again: bool = True,
        after: After | None = None,
    ) -> Reading:
        """Read a document and learn from it; the returned losses are from before it was learned.

        If this text was interrupted, reading continues where it stopped. With ``again`` False, a
        text that has already been read is skipped. Tokens that do not fill a segment wait in
        ``state`` for the next document, or for ``finish``. ``after`` is called after every segment.
        ``about`` is the subject of a text that does not name it, for its study: a phrase, or the
        name of a document that was studied or waits for it. Raises UserError if it names neither,
        or if nothing is studied.
        """
        documents = self.state.documents
        ids = self.text.encode(text)
        own = Document(name, token_digest(ids), len(ids), 0)
        waits = Waiting(name, own.sha256, text, self._subject(about, own.sha256))
        if documents and documents[-1].sha256 == own.sha256 and documents[-1].read < len(ids):
            own = documents[-1]
            self._put_off(waits, new=False)
        elif not again and any(old.sha256 == own.sha256 for old in documents):
            self._put_off(waits, new=False)
            return self._nothing()
        else:
            self.state = self.state._replace(documents=(*documents, own))
            if self.studies:
                self._put_off(waits)
        if not self.levels:
            self.state = count_tokens(self.state, len(ids))
            return self._nothing() + Reading(tokens=len(ids), writes=())
        return self.read_tokens(ids[own.read :], begins=own.read == 0, after=after)

    def _subject(self, about: str, own: str) -> str:
        """What a document with checksum ``own`` is said to be about, resolved."""
        if not about:
            return ""
        if not self.studies:
            raise UserError("about has no effect where nothing is studied; leave it out")
        every = (*self.state.studied, *self.state.waiting)
        return subject_named(about, [(x.name, x.sha256) for x in every if x.sha256 != own])

    def _put_off(self, one: Waiting, new: bool = True) -> None:
        """Queue a document for study if it is ``new``; one that is queued may get its subject."""
        state, waiting = self.state, list(self.state.waiting)
        place = next((n for n, old in enumerate(waiting) if old.sha256 == one.sha256), None)
        if place is None and new:
            self.state = state._replace(waiting=(*waiting, one))
        elif place is not None and one.about not in ("", waiting[place].about):
            waiting[place] = one
            opened = state.open if place else None  # its study starts anew
            self.state = state._replace(waiting=tuple(waiting), open=opened)

    def study(self, plan: Plan | None = None, show: Show | None = None) -> tuple[Studied, ...]:
        """Study all waiting documents, so that they are known without their text.

        ``plan`` says how thoroughly; an interrupted study continues with its own plan. ``show`` is
        called with the learner and its progress after every step, when ``state`` holds everything
        needed to resume there (``nestling.continual.study``).
        """
        found: list[Studied] = []
        while self.state.waiting:
            found.append(study_next(self.school, plan or Plan(rank=self.rank), show))
        return tuple(found)

    @property
    def rank(self) -> int:
        """The default rank of the change that a document makes."""
        return next((one.rank for one in self.base.levels if one.rank is not None), RANK)

    @property
    def school(self) -> School:
        """State shared by all studies of this learner; created on first use."""
        if self._school is None or self._school.learner is not self:
            self._school = School(self)
        return self._school

    @property
    def talks(self) -> bool:
        """Whether the model has a chat template."""
        return self.base.tokenizer is not None and bool(self.text.tokenizer.chat_template)

    def ask(
        self, question: str, *, tokens: int = 100, chat: bool | None = None, check: bool = True
    ) -> str:
        """The model's answer, with nothing but the question in its context.

        Uses the chat template if there is one, or as ``chat`` says; otherwise a plain question.
        Studied sentences are recited, and the one that fits the question is returned; if none fits,
        the model answers as before study (``nestling.continual.study.recall``). ``check=False``
        gives the most likely reply. Nothing is recited without a chat template (study then teaches
        short answers, not sentences) or with a ``gate``. ``answer`` also says which document the
        answer is from.
        """
        chat = self.talks if chat is None else chat
        if chat and check and self.recites:
            return self.answer(question, tokens=tokens).text
        if chat:
            return self.generate(question, tokens=tokens, chat=True).strip()
        said = self.generate(PLAIN.format(question=question), tokens=tokens, about=question)
        return said.strip().split(END)[0]

    @property
    def recites(self) -> bool:
        """Whether ``answer`` is available: something was studied in chat form, and there is no
        gate.
        """
        return self.talks and self.gate is None and bool(self.state.studied)

    def answer(self, question: str, *, tokens: int = 100) -> Answer:
        """The model's checked answer, as by ``ask``, with the name of the document it is from.

        Raises UserError if nothing can be recited (``recites``).
        """
        if not self.recites:
            raise UserError(
                "an answer has a source if something was studied, by a model with a chat template "
                "and without a gate; use ask"
            )
        return answered(self.school, question, tokens)

    def undo(self) -> Studied:
        """Forget the document studied last: the model is exactly as it was before."""
        if not self.state.studied:
            raise UserError("nothing has been studied, so there is nothing to undo")
        return self.forget(len(self.state.studied) - 1)

    def forget(self, document: str | int) -> Studied:
        """Forget a document, given by name, checksum or number from 0.

        Nothing of it stays, as no document is studied on top of another (those of older memory
        files were).
        """
        number = find_studied(self.state.studied, document)
        one = self.state.studied[number]
        left = tuple(other for n, other in enumerate(self.state.studied) if n != number)
        documents = tuple(old for old in self.state.documents if old.sha256 != one.sha256)
        self.state = self.state._replace(studied=left, documents=documents)
        return one

    def weights_of(self, document: Studied) -> dict[str, Tensor]:
        """The weights with the change of one studied document."""
        return self.weights(studied=with_change_of(document, self.state.studied))

    def weights_for(self, text: str, *, named: bool = False) -> dict[str, Tensor]:
        """The weights for a text: with the change of the studied document that it concerns most.

        With ``named``, only if the text names the document's subject.
        """
        for one in concerned(text, self.state.studied, 1):
            if not named or names(text, one):
                return self.weights_of(one)
        return self.weights(studied=())

    def experts(self, now: dict[str, Tensor] | None = None) -> tuple[dict[str, Tensor], ...]:
        """The base, the averages, and the model with its slowest level alone, with two, ..., with
        all.

        Each as the weights of all levels. ``now`` are those of the last, with what was studied of
        some documents; by default of all.
        """
        now = self.weights() if now is None else now
        found = experts(self.parameters, self.start, self.state.averages, now)
        return found if self.levels or not self.state.studied else (*found, now)

    @torch.no_grad()
    def losses(
        self, ids: Sequence[int], gate: str | None = None, document: Studied | None = None
    ) -> Float[Tensor, "K N"]:
        """The losses of a text, in nats, for each of the K experts of a gate.

        What was studied of the document that the text concerns most is used if it names its
        subject; with ``document``, that one.
        """
        ids = tuple(map(int, ids))
        if document is None:
            text = self.text.decode(ids) if self.state.studied else ""
            now = self.weights_for(text, named=True)
        else:
            now = self.weights_of(document)
        rows = [
            read_alone(self.reader, weights, ids, self.sizes, self.device)
            for weights in self._mixed_weights(gate, now)
        ]
        return torch.stack(rows)

    def _mixed_weights(self, gate: str | None, now: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        if gate is None:
            return [now]
        every = self.experts(now)
        return [every[index] for index in seats(gate, len(every))]

    @torch.no_grad()
    def score(self, text: str | Sequence[int], *, document: Studied | None = None) -> Reading:
        """The losses of a text; nothing is learned from it.

        ``document`` uses what was studied of that document, whatever the text concerns.
        """
        ids = self.text.encode(text) if isinstance(text, str) else text
        mixed, _ = followed(-self.losses(ids, self.gate, document), SHARE)
        return Reading(tokens=len(ids), scored=len(mixed), nats=-float(mixed.sum()))

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        *,
        tokens: int = 100,
        temperature: float = 0.0,
        top_k: int = 50,
        seed: int = 0,
        chat: bool = False,
        about: str | None = None,
    ) -> str:
        """The model's continuation of ``prompt``, with nothing else in its context.

        What was studied of the document that ``about`` (by default the prompt) concerns most is
        used.
        ``temperature`` 0 takes the most likely token; ``top_k`` 0 samples from all. ``chat`` puts
        the prompt as a user's message into the tokenizer's chat template.
        """
        ids = self.text.prompt(prompt, chat)
        options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": tokens}
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": top_k}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            given = torch.tensor([ids], device=self.device)
            now = self.weights_for(prompt if about is None else about)
            if self.gate is None:
                out = self.reader.generate(now, given, **options)
            else:
                mixed = self._mixed_weights(self.gate, now)
                out = generate_mixed(self.reader, mixed, given, SHARE, **options)
        return self.text.decode(out[0])

    # memories as values and files

    def fork(self) -> "ContinualLearner":
        """An independent learner with the same state; nothing is copied until it writes."""
        other = object.__new__(ContinualLearner)
        other.__dict__.update(self.__dict__)
        other._made = dict(self._made)
        other.seen = self.seen.fork()
        other._school = None
        return other

    def reset(self, level: int | None = None) -> None:
        """Reset a level (by number, 0 the slowest) or everything to the base."""
        if level is None:
            self.state = self._fresh()
            return
        if not 0 <= level < len(self.levels):
            raise no_level(level, len(self.levels))
        rows = torch.ones(1, dtype=torch.bool, device=self.device)
        levels = list(self.state.levels)
        seen = levels[level].seen
        levels[level] = restart(levels[level], rows)._replace(seen=seen)
        averages = tuple(without(average, level) for average in self.state.averages)
        self.state = self.state._replace(levels=tuple(levels), averages=averages)

    def save(self, path: str | Path, *, storage: str = "exact", overwrite: bool = False) -> Path:
        """Write a memory file atomically.

        With ``storage`` "exact", reading continues bit-identically after ``load``. "16bit" and
        "rank:R" store only what was learned, rounded or of low rank: open periods and moments start
        over. An existing file whose current version this learner has neither read nor written
        raises UserError unless ``overwrite``; one that another process is using always does.
        """
        with locked(path):
            if not overwrite:
                self.seen.check(Path(path))
            save_state(self, Path(path), storage)
            self.seen.note(Path(path))
        return Path(path)

    def load(self, path: str | Path) -> None:
        """Load a memory file; one of another model raises UserError and changes nothing.

        Its levels must equal those of this learner, except for learning rates.
        """
        seen = self.seen.fork()
        seen.note(Path(path))  # before reading: a write during the read counts as another process's
        self.state = restore_state(self, Path(path))
        self.seen = seen
