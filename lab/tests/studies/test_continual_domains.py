"""The domain study at a small size, and its metrics of a matrix."""

from dataclasses import replace

import pytest

from nestling_lab.studies.answers import differences
from nestling_lab.studies.continual import base, domains, journey
from nestling_lab.studies.continual.base import Pretraining, encoded
from nestling_lab.studies.continual.contenders import CONTENDERS, EVERY, LARGE
from nestling_lab.studies.continual.domain_figures import Journeys, figures, less, summary
from nestling_lab.studies.continual.domain_report import report, seed_by_seed
from nestling_lab.studies.continual.domains import Domains, LargeDomains


def test_matrix_metrics():
    matrix = [[1.0, 4.0, 5.0], [1.2, 3.0, 4.5], [1.1, 3.5, 4.0]]
    found = summary(matrix)
    assert found["final"] == pytest.approx((1.1 + 3.5 + 4.0) / 3)
    assert found["old_rise"] == pytest.approx(10)
    assert found["gain"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["backward"] == pytest.approx(0.5)
    assert found["forward"] == pytest.approx(0.5)
    half = [[1.0, 4.0, 5.0], [1.0, 3.5, 4.9], [1.0, 3.0, 4.0]]
    both = figures([half, half], [matrix, matrix])
    assert both["shares"] == pytest.approx([0.5, 1.0]) and both["final"].mean == pytest.approx(
        8 / 3
    )
    assert figures([half], None)["shares"] is None


def test_methods_are_compared_on_shared_seeds():
    def ending(contender, finals):
        return Journeys(
            contender, "none", {}, {seed: [[2.0, 2.0], [end, end]] for seed, end in finals}
        )

    whole = ending("fine-tuning", ((0, 1.0), (1, 2.0), (2, 1.5)))
    other = ending("lora", ((2, 1.8), (0, 1.2)))
    found = [whole, other, ending("frozen", ())]
    table = seed_by_seed(found, [whole], [differences(less(found, whole))])
    # mean of 0.2 and 0.3; t = 0.25 / 0.05 with one degree of freedom
    assert table.rows[0] == ("full fine-tuning", "-")
    assert table.rows[1] == ("LoRA", "+0.25 +/- 0.64 (n.s., p = 0.13)") and len(table.rows) == 2


def test_diverged_run_ranks_last():
    nan = float("nan")
    sound, lost = [[1.0, 4.0], [1.0, 3.0]], [[1.0, 4.0], [nan, nan]]

    def journeys(contender, matrices):
        return Journeys(contender, "none", {}, dict(enumerate(matrices)))

    whole = journeys("fine-tuning", [sound, sound, sound])
    other = journeys("lora", [sound, lost, lost])
    config = Domains.Config(domains=("cat",), contenders=("fine-tuning", "lora"), seeds=(0, 1, 2))
    finding = report(config, [whole, other])
    said = {section.title: section.tables for section in finding.sections if section.tables}
    assert said["Seed by seed"][0].rows[1] == ("LoRA", "0 (diverged in 2 of 3)")
    assert said["The targets"][0].rows[1] == ("LoRA", "diverged", "no")
    [lora] = [table for table in said["After every domain"] if table.title == "LoRA"]
    assert lora.rows[1] == ("after cat", *["1 (2 of 3 diverged)", "3 (2 of 3 diverged)"])
    assert said["After the last domain"][0].rows[1][2] == "2 (2 of 3 diverged)"


def test_every_method_but_frozen_has_equal_settings():
    counts = {name: len(c.settings) for name, c in CONTENDERS.items()}
    assert counts.pop("frozen") == 1
    assert set(counts.values()) == {6}
    assert {len(c.settings) for name, c in LARGE.items() if name != "large-frozen"} == {2}


class OfSpaces:
    """A tokenizer of letters."""

    def __call__(self, text, verbose=False):
        return {"input_ids": [0, *map(ord, text)]}


def test_documents_are_split_and_counted():
    texts = ["abcdef", "", "gh", "ijkl"]
    assert encoded(OfSpaces(), texts, 10, 4) == [[0, 97, 98, 99], [0, 103, 104], [0, 105, 106]]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of two generated domains with a tiny model."""
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))

    class Made:
        def __init__(self, word):
            self.documents = [f"{word} number {i} and {word} {i * i}. " * 3 for i in range(12)]
            self.held_out = [f"{word} number {i} is {word}. " * 3 for i in range(20, 26)]
            self.sha256 = word
            self.tag = f"{word}@0"

    for module in (base, domains, journey):
        monkeypatch.setattr(module, "load_corpus", Made)
    config = Domains.Config(
        domains=("cat", "dog"),
        contenders=("frozen", "fine-tuning", "levels-2"),
        seeds=(0, 1),
        base=Pretraining(
            corpus="world-english-bible",
            vocab_size=280,
            hidden_size=16,
            layers=2,
            heads=2,
            intermediate_size=32,
            steps=3,
            batch_size=2,
            length=32,
        ),
        tokens=48,
        longest=24,
        test_tokens=24,
        test_longest=12,
        segment=8,
        window=32,
    )
    tuned = CONTENDERS["fine-tuning"]
    monkeypatch.setitem(EVERY, "fine-tuning", replace(tuned, settings=tuned.settings[:2]))
    # periods of 64 tokens would never end
    for name, periods in (("levels-2", (8, 16)),):
        built = CONTENDERS[name]
        text = ",".join(f"{p}:0.01" for p in periods)
        monkeypatch.setitem(EVERY, name, replace(built, build=_levels(text), settings=({},)))
    return Domains(config)


def _levels(text):
    from nestling.continual.learner import ContinualLearner
    from nestling.continual.methods import Levels
    from nestling.continual.state import Options
    from nestling.models.pretrained import parse_levels

    def build(place, setting):
        options = Options(segment=place.sizes.segment, window=place.sizes.window)
        return Levels(
            ContinualLearner(place.base.model, levels=parse_levels(text), options=options)
        )

    return build


def test_small_study_is_deterministic_and_reported(tiny):
    done = {}
    while pending := [cell for cell in tiny.cells(done) if cell.name not in done]:
        for cell in pending:
            done[cell.name] = tiny.run(cell)
    # of fine-tuning one setting is used further, or one per gate
    tried = len(EVERY["fine-tuning"].settings)
    assert len(done) in (2 + (tried + 1) + 2, 2 + (tried + 2) + 2)
    assert tiny.run(tiny.cell("levels-2", 0, 1)).metrics == done["levels-2-0-seed1"].metrics
    frozen = done["frozen-0-seed0"].metrics["none"]["matrix"]
    assert frozen[0] == frozen[1] == frozen[2]
    gates = done["levels-2-0-seed0"].metrics
    assert list(gates) == ["none", "base", "levels"]
    learned = gates["none"]
    for gate in ("base", "levels"):
        gated = gates[gate]["matrix"]
        assert gated[0] == pytest.approx(frozen[0], rel=1e-4) and gated[2] != learned["matrix"][2]
    assert learned["updates"] > 0 and learned["matrix"][2] != learned["matrix"][0]
    assert learned["matrix"][0] == pytest.approx(frozen[0], rel=1e-4)
    finding = tiny.find(done)
    assert finding.metrics["frozen"]["gain"]["mean"] == 0
    assert len(finding.sections[-1].tables) == 1 + 2 + 3
    assert finding.metrics["fine-tuning"]["shares"] == pytest.approx([1, 1])


def test_empty_study_has_a_page():
    assert Domains().find({}).sections
    large = LargeDomains()
    assert large.find({}).sections and large.cells({})[0].config["base"] == "smollm2-135m-instruct"
