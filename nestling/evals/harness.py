"""The adapter to lm-eval: its tasks and its scoring, our way of reading."""

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.error import UserError
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Ask, Memory

NEW_TOKENS = 256  # of a text to write, where the task does not say


def library(name: str) -> Any:
    """A module of lm-eval; UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"lm-eval is missing ({error.name}): pip install 'nestling[eval]'"
        ) from error


def adapter(reader: Reader, *, carry: bool = False, tell: Tell = silent) -> Any:
    """The reader as an ``LM`` of lm-eval, to be handed to its ``simple_evaluate``.

    Each request is read from a fresh memory; with ``carry`` one memory goes on through all of them
    in the order of the task. A text is led by what the tokenizer itself puts before one. ``tell``
    counts the answered requests of one kind.
    """
    template: Any = library("lm_eval.api.model").TemplateLM
    memory = Memory(reader, carry=carry)

    class Nestling(template):
        """Tokens by the reader, answers by the memory, everything else by lm-eval."""

        tokenizer = reader.tokenizer
        device = "cpu"  # of the gathering across processes, of which there is one

        @property
        def eot_token_id(self) -> int:
            return reader.tokenizer.eos_token_id

        @property
        def prefix_token_id(self) -> int:
            return reader.start[0]

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            lead = [] if add_special_tokens is False else reader.lead
            return [*lead, *reader.encode(string)]

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
            found = []
            for request in requests:
                context, options = request.args
                until = options.get("until") or []
                stops = tuple([until] if isinstance(until, str) else until)
                tokens = int(options.get("max_gen_toks", NEW_TOKENS))
                ids = self.tok_encode(context)
                found.append(memory.write(ids, tokens=tokens, stops=stops))
                tell(len(found), len(requests))
            return found

    return Nestling()


def run_harness(
    reader: Reader,
    tasks: Sequence[str | Mapping[str, Any]],
    *,
    limit: int | None = None,
    carry: bool = False,
    include: str | None = None,
    tell: Tell = silent,
) -> dict[str, dict[str, Any]]:
    """The figures of lm-eval for each task: a name it knows, or a configuration of one.

    ``limit`` takes so many questions of each task, from its beginning. ``include`` is a folder of
    further task files. A task whose data cannot be fetched raises UserError.
    """
    evaluate = library("lm_eval").simple_evaluate
    # its loggers tell of every default it takes
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = library("lm_eval.tasks").TaskManager(include_path=include)
    try:
        found = evaluate(
            model=adapter(reader, carry=carry, tell=tell),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
        )
    except (ConnectionError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"the data of a task cannot be fetched ({reason}): connect to the hub, or take tasks "
            "that need none (--data bigbench)"
        ) from error
    return {
        name: figures_of(record) | {"questions": found["n-samples"][name]["effective"]}
        for name, record in found["results"].items()
    }


def version() -> str | None:
    """The version of lm-eval; None where it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def with_rows(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration of a task of lm-eval whose questions are ``rows``; nothing is written."""

    def read(**_: Any) -> dict[str, Any]:
        return {"test": library("datasets").Dataset.from_list([dict(row) for row in rows])}

    return {**config, "test_split": "test", "custom_dataset": read}


def figures_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by plain name, where lm-eval appends its filter: "acc,none".

    >>> figures_of({"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": "a"})
    {'acc': 0.5}
    """
    return {
        name.split(",")[0]: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
