"""What the maps of a model read."""

from tiny_bases import tiny_base
from torch import nn

from nestling.continual.study.body import Cut, body
from nestling.continual.study.inputs import inputs_of
from nestling.continual.study.training import Lesson
from nestling.models.functional import FunctionalModel


def lesson(own, ids):
    [entry] = own.entries([(ids, False)])
    return Lesson(entry, slice(0, len(ids) - 1), ids[1:])


def test_inputs_are_those_that_maps_read(monkeypatch):
    """At all tokens; rows that are only filled up have none."""
    reader = FunctionalModel(tiny_base("llama").eval())
    own = body(reader, 2)
    assert isinstance(own, Cut)
    lessons = [lesson(own, (3, 4, 5)), lesson(own, (6, 7))]
    names = [n for n, _ in reader.model.named_parameters() if "layers.2." in n]
    found = inputs_of(own, names, lessons)
    maps = {n for n in names if "proj" in n}
    assert set(found) == maps and {len(rows) for rows in found.values()} == {5}
    monkeypatch.setattr("nestling.continual.study.precision.has_bfloat16", lambda device: True)
    own.fast = True
    assert {len(rows) for rows in inputs_of(own, names, lessons).values()} == {5}


def test_only_weights_of_linear_maps_have_inputs():
    reader = FunctionalModel(tiny_base("gpt2").eval())
    names = [n for n, _ in reader.model.named_parameters()]
    own = body(reader, 1)
    found = inputs_of(own, names, [lesson(own, (3, 4))])
    linear = {f"{n}.weight" for n, m in reader.model.named_modules() if isinstance(m, nn.Linear)}
    assert set(found) <= linear
