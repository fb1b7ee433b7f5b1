"""What a model says about one of the short texts, in a process that has seen nothing of it.

Run: python -m nestling_lab.studies.continual.told_asked MODEL MEMORY TEXT
"""

import json
import sys
from pathlib import Path

from nestling.continual.opening import open_learner
from nestling.continual.study.form import PLAIN, begun, plain
from nestling.continual.study.judge import SHOTS
from nestling_lab.studies.continual.told_texts import Told, told_texts

TOKENS = 40  # of an answer, at most


def said(model: str, memory: str, one: Told) -> dict[str, list[str]]:
    """Replies by what the model has: the memory, nothing, the text in its context in two forms."""
    asked = [ask for ask, _ in one.questions]
    studied = open_learner(model, Path(memory), must_exist=True)
    found = {"studied": [studied.ask(ask, tokens=TOKENS) for ask in asked]}
    base = open_learner(model)
    text, school, talk = base.text, base.school, base.school.talk
    plainly = school.forms[0]
    opening = school.speaker.told(talk.opening)
    example = school.speaker.told(begun(text, f"{SHOTS}Text: {one.text}\n"))
    forms = {
        "nothing": (opening, talk, [talk.prompt(ask) for ask in asked]),
        "chat": (opening, talk, [talk.prompt(f"{one.text}\n\n{ask}") for ask in asked]),
        "shots": (example, plainly, [plain(text, PLAIN.format(question=ask)) for ask in asked]),
    }
    for way, (told, form, prompts) in forms.items():
        replies = school.speaker.said(told, prompts, most=TOKENS, stop=form.stop)
        found[way] = [text.decode(ids) for ids in replies]
    return found


if __name__ == "__main__":
    model, memory, name = sys.argv[1:]
    print(json.dumps(said(model, memory, told_texts()[name])))
