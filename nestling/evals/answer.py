"""Asks a model the questions of a task, and has the task score the answers."""

import itertools
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.evals.figures import judged_rows, judged_texts
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Ask, Memory
from nestling.tasks import UNSEEN, Answer, Question, QuestionTask, TextTask, TokenTask


def spell(reader: Reader, count: int, seed: int) -> list[int]:
    """Draw a token of the model's vocabulary for each of a task's tokens.

    They are whole words with a leading space if there are enough, otherwise any tokens that are
    not special. Raises UserError if the vocabulary is too small.
    """
    tokenizer = reader.tokenizer
    special = set(tokenizer.all_special_ids)
    plain = [i for i in range(len(tokenizer)) if i not in special]
    words = [i for i in plain if _is_word(tokenizer.decode([i]))] if count < len(plain) else []
    among = words if len(words) >= count else plain
    if len(among) < count:
        raise UserError(
            f"the task has {count} tokens, {reader.name} only {len(among)}; "
            "use a model with a larger vocabulary, or fit a preset to the task (--fit)"
        )
    order = torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))
    return [among[i] for i in order[:count].tolist()]


def _is_word(text: str) -> bool:
    return text.startswith(" ") and text[1:].isascii() and text[1:].isalpha() and len(text) > 3


def ask_positions(
    reader: Reader,
    task: TokenTask,
    *,
    seed: int = 0,
    count: int = 100,
    own: bool = False,
    batch_size: int = 16,
    tell: Tell = silent,
) -> dict[str, Any]:
    """The most likely of the task's tokens at every labelled position, and the scores by row.

    With ``own``, the model's vocabulary is the task's (it was fitted to it). Otherwise each token
    of the task is mapped to one of the model (see ``spell``), and rows begin like a text.
    """
    examples = task.examples(UNSEEN + seed, count)
    names = list(range(task.vocab_size)) if own else spell(reader, task.vocab_size, seed)
    lead = [] if own else reader.start
    rows = torch.tensor(names)[examples.input_ids]
    rows = torch.cat([torch.tensor([lead] * count).view(count, len(lead)).long(), rows], 1)
    answers: list[Int[Tensor, "B T"]] = []
    for part in rows.split(batch_size):
        found, cache = [], None
        for piece in part.split(reader.segment, 1):
            logits, cache = reader.call(piece, cache)
            found.append(logits[..., names].argmax(-1).cpu())
        answers.append(torch.cat(found, 1)[:, len(lead) :])
        tell(sum(map(len, answers)), count)
    return judged_rows(task, torch.cat(answers), examples.labels) | {"tokens": rows.numel()}


def ask_texts(
    reader: Reader,
    task: QuestionTask,
    *,
    seed: int = 0,
    count: int = 100,
    new_tokens: int | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """The model's answer to every question of a text task, each with an empty memory.

    ``new_tokens`` limits the length of answers below what the task allows.
    """
    memory = Memory(reader)
    answers: list[Answer] = []
    asked: list[Question] = []
    tokens = 0
    for question in itertools.islice(task.stream(UNSEEN + seed), count):
        ids = [*reader.start, *reader.encode(question.prompt)]
        answers.append(answer_to(memory, task, ids, question, new_tokens))
        asked.append(question._replace(prompt=""))  # long, and no longer needed
        tokens += len(ids)
        tell(len(answers), count)
    found = judged_texts(task, answers, asked) | {"tokens": tokens}
    if reader.horizon is not None:
        found["horizon"] = reader.horizon
    return found


def answer_to(
    memory: Memory,
    task: TextTask,
    context: list[int],
    question: Question,
    new_tokens: int | None = None,
) -> Answer:
    """The model's answer after ``context``: a text, the index of a choice or a log-probability."""
    reader = memory.reader
    if task.kind == "generate":
        tokens = min(task.new_tokens, new_tokens or task.new_tokens)
        return memory.write(context, tokens=tokens, stops=task.stop)
    asks = [Ask(tuple(context), tuple(ids)) for ids in candidates(reader, task, question)]
    scores = [score for score, _ in memory.score(asks)]
    return scores.index(max(scores)) if task.kind == "choose" else scores[0]


def candidates(reader: Reader, task: TextTask, question: Question) -> list[list[int]]:
    """The token ids of the texts to score for a question: its choices, or its answer."""
    texts = question.choices if task.kind == "choose" else question.answers[:1]
    return [reader.encode(question.joint + text) or [0] for text in texts]


def room_of(reader: Reader, task: TextTask, question: Question) -> int:
    """The number of tokens needed for a question and its answer, after the earlier text."""
    prompt = len(reader.encode(question.prompt) or reader.start)
    if task.kind == "generate":
        return prompt + task.new_tokens
    # the last token of a continuation is predicted, but not read
    return prompt + max(map(len, candidates(reader, task, question))) - 1
