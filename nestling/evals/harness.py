"""The adapter to lm-eval: its tasks and scoring on our readers."""

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from nestling.core.error import UserError
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Ask, Memory

NEW_TOKENS = 256  # to generate, if the task does not say


def library(name: str) -> Any:
    """Import a module of lm-eval; raises UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"lm-eval is missing ({error.name}): pip install 'nestling[eval]'"
        ) from error


def adapter(reader: Reader, *, carry: bool = False, batch: int = 1, tell: Tell = silent) -> Any:
    """The reader as an ``LM`` of lm-eval, for its ``simple_evaluate``.

    Each request is read with an empty memory, ``batch`` of them side by side; with ``carry`` one
    memory continues through all of them in the order of the task. Texts start with the special
    tokens that the tokenizer puts before a text. Options of ``generate`` have the names that
    lm-eval's HF model accepts (``max_gen_toks`` and its aliases, ``do_sample``, ``temperature``,
    ``top_p``...). Special tokens spelt out in a text are ordinary text, unless lm-eval has applied
    the chat template. ``tell`` is called with the number of answered requests of one kind.
    """
    template: Any = library("lm_eval.api.model").TemplateLM
    plain: Any = library("lm_eval.models.utils").normalize_gen_kwargs
    memory = Memory(reader, carry=carry, batch=batch)

    class Nestling(template):
        """Tokenises with the reader and answers with the memory; lm-eval does the rest."""

        tokenizer = reader.tokenizer
        tokenizer_name = str(getattr(reader.tokenizer, "name_or_path", "")).replace("/", "__")
        device = "cpu"  # for gathering across processes; there is only one
        batch_size = batch
        max_length = reader.horizon
        max_gen_toks = NEW_TOKENS
        chats = False  # whether texts are in the chat template, which is made of special tokens

        @property
        def eot_token_id(self) -> int:
            return reader.tokenizer.eos_token_id

        @property
        def prefix_token_id(self) -> int:
            return reader.start[0]

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            ids = reader.encode(string, special=self.chats)
            bare = add_special_tokens is False or ids[: len(reader.lead)] == reader.lead
            return ids if bare else [*reader.lead, *ids]

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            return reader.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            text = in_chat(reader, chat_history, add_generation_prompt)
            self.chats = True
            return text

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], **_: Any
        ) -> list[tuple[float, bool]]:
            asks = [Ask(tuple(context), tuple(rest)) for _, context, rest in requests]
            return memory.score(asks, tell)

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            found = []
            for request in requests:
                found.append(memory.score_text(request.args[0]))
                tell(len(found), len(requests))
            return found

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            found = [""] * len(requests)
            groups = alike([request.args[1] for request in requests], carry)
            done = 0
            for places in groups:
                options = dict(plain(requests[places[0]].args[1], NEW_TOKENS))
                stops = tuple(options.pop("until"))
                tokens = options.pop("max_gen_toks")
                if not options["do_sample"]:
                    options.pop("temperature", None)
                ids = [self.tok_encode(requests[i].args[0]) or reader.start for i in places]

                def told(now: int, _: int, before: int = done) -> None:
                    tell(before + now, len(requests))

                texts = memory.write_all(ids, tokens=tokens, stops=stops, tell=told, **options)
                for place, text in zip(places, texts, strict=True):
                    found[place] = text
                done += len(places)
            return found

    return Nestling()


def alike(options: Sequence[Mapping[str, Any]], ordered: bool) -> list[list[int]]:
    """Group the places of requests with the same options; ``ordered``: consecutive ones only.

    >>> alike([{"a": 1}, {}, {"a": 1}], False), alike([{"a": 1}, {}, {"a": 1}], True)
    ([[0, 2], [1]], [[0], [1], [2]])
    """
    groups: list[tuple[Mapping[str, Any], list[int]]] = []
    for place, one in enumerate(options):
        among = groups[-1:] if ordered else groups
        same = next((places for other, places in among if other == one), None)
        if same is None:
            groups.append((one, [place]))
        else:
            same.append(place)
    return [places for _, places in groups]


def in_chat(reader: Reader, messages: list[dict[str, str]], answers: bool) -> str:
    """Messages in the chat template of the tokenizer; ``answers``: up to where an answer begins.

    A template without system messages gets none, as in lm-eval's HF model. Raises UserError
    without a template.
    """
    if not reader.tokenizer.chat_template:
        raise UserError(f"the tokenizer of {reader.name} has no chat template; leave out chat")

    def put(some: list[dict[str, str]]) -> str:
        return reader.tokenizer.apply_chat_template(
            some, tokenize=False, add_generation_prompt=answers, continue_final_message=not answers
        )

    try:
        return put(messages)
    except TemplateError:
        return put([one for one in messages if one["role"] != "system"])


def run_harness(
    reader: Reader,
    tasks: Sequence[str | Mapping[str, Any]],
    *,
    limit: int | None = None,
    carry: bool = False,
    batch: int = 1,
    chat: bool = False,
    include: str | None = None,
    tell: Tell = silent,
) -> dict[str, dict[str, Any]]:
    """Run lm-eval on tasks, given by name or as configurations, and return their figures.

    ``limit`` is the number of questions per task, from the first on; ``batch`` of them are read
    side by side. ``chat`` puts each question as a message into the tokenizer's chat template.
    ``include`` is a folder with further task files. Raises UserError if the data of a task cannot
    be fetched.
    """
    evaluate = library("lm_eval").simple_evaluate
    # its loggers report every default
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = library("lm_eval.tasks").TaskManager(include_path=include)
    try:
        found = evaluate(
            model=adapter(reader, carry=carry, batch=batch, tell=tell),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks],
            task_manager=manager,
            limit=limit,
            apply_chat_template=chat,
            bootstrap_iters=0,
            log_samples=False,
        )
    except (ConnectionError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot fetch the data of a task ({reason}); check the network, or use tasks that "
            "need none (--data bigbench)"
        ) from error
    return {
        name: figures_of(record) | {"questions": found["n-samples"][name]["effective"]}
        for name, record in found["results"].items()
    }


def version() -> str | None:
    """The version of lm-eval; None if it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def with_rows(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An lm-eval task configuration with ``rows`` as its questions, kept in memory."""

    def read(**_: Any) -> dict[str, Any]:
        return {"test": library("datasets").Dataset.from_list([dict(row) for row in rows])}

    return {**config, "test_split": "test", "custom_dataset": read}


def figures_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by plain name, without the filter that lm-eval appends ("acc,none").

    >>> figures_of({"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": "a"})
    {'acc': 0.5}
    """
    return {
        name.split(",")[0]: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
