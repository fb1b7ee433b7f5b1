"""MAD's tasks: published shapes and definitions."""

import pytest
import torch

from nestling.core.error import UserError
from nestling.tasks import IGNORED, TASKS, UNSEEN
from nestling.tasks.mad.copying import Memorisation, SelectiveCopying
from nestling.tasks.mad.fuzzy import FuzzyRecall
from nestling.tasks.mad.recall import InContextRecall, NoisyRecall

# from configs/tasks/*.yml of mad-lab: vocabulary, tokens of a row that a model reads, rows to
# train on, settings of the sweep besides the first
PUBLISHED = {
    "mad-compress": (16, 32, 12_800, 10),
    "mad-recall": (16, 127, 12_800, 10),
    "mad-fuzzy-recall": (16, 128, 12_800, 10),
    "mad-noisy-recall": (32, 127, 12_800, 13),
    "mad-selective-copy": (16, 256, 12_800, 12),
    "mad-memorise": (256, 32, 256, 5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name):
    kind = TASKS.load(name)
    vocab, length, rows, settings = PUBLISHED[name]
    task = kind()
    assert task.vocab_size == vocab and task.config.train_examples == rows
    assert len(kind.difficulties()) == settings + 1
    for seed in (0, UNSEEN):
        input_ids, labels = task.examples(seed, 3)
        assert input_ids.shape == labels.shape == (3, length)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_difficulty_is_available(name):
    kind = TASKS.load(name)
    for config in kind.difficulties():
        input_ids, labels = (task := kind(config)).examples(UNSEEN, 3)
        assert task.score(task.oracle(input_ids), labels) == 1.0
        assert input_ids.max() < task.vocab_size and (labels != IGNORED).any(1).all()


def brute_recall(row: list[int], label: list[int], keys: int, top: int) -> None:
    """Labels are exactly at repeated keys."""
    told = {}
    for t in range(0, len(row), 2):
        if row[t] >= top:
            assert label[t] == IGNORED and row[t + 1] >= top
            continue
        assert row[t] < keys
        value = row[t + 1] if t + 1 < len(row) else label[t]
        assert keys <= value < top
        assert label[t] == told.get(row[t], IGNORED)
        assert told.setdefault(row[t], value) == value
    assert label[-1] != IGNORED
    assert all(one == IGNORED for one in label[1::2])


@pytest.mark.parametrize("kind", [InContextRecall, NoisyRecall])
def test_recall_asks_for_every_key(kind):
    for config in kind.difficulties()[:-1]:
        task = kind(config)
        for row, label in zip(*(part.tolist() for part in task.examples(UNSEEN, 10)), strict=True):
            brute_recall(row, label, task.keys, task.top)


def test_noise_fraction():
    task = NoisyRecall(NoisyRecall.Config(noise=0.4))
    noisy = task.examples(UNSEEN, 400).input_ids[:, :-1:2] >= task.top
    # of 63 pairs one is never noise
    expected = 0.4 * 62 / 63
    assert abs(noisy.double().mean().item() - expected) < 3 * (0.24 / noisy.numel()) ** 0.5


def test_training_learns_from_every_token():
    for task in (InContextRecall(), NoisyRecall(), FuzzyRecall()):
        input_ids, labels = task.examples(0, 5)
        assert torch.equal(input_ids[:, 1:], labels[:, :-1])


def test_motifs():
    """In test rows keys have three tokens, values one to three, without repeated tokens."""
    task = FuzzyRecall()
    lengths = set()
    for row, label in zip(*(part.tolist() for part in task.examples(UNSEEN, 50)), strict=True):
        tokens = [token for token in row if token != task.top]
        assert tokens == row[len(row) - len(tokens) :], "the fill is on the left"
        runs: list[list[int]] = []
        for token in tokens:
            if not runs or (runs[-1][-1] < task.keys) != (token < task.keys):
                runs.append([])
            runs[-1].append(token)
        assert all(len(set(run)) == len(run) for run in runs)
        assert all(len(run) == 3 for run in runs if run[0] < task.keys)
        lengths |= {len(run) for run in runs[1:-1:2]}
        asked = [t for t, one in enumerate(label) if one != IGNORED]
        last = len(row) - 1
        assert asked[-1] == last
        # the first token of the last value is queried at the end of its key
        key = next(run for run in reversed(runs) if run[0] < task.keys)
        assert runs.index(key) < len(runs) - 1, "the last key was there before"
    assert lengths == {1, 2, 3}


def test_copied_tokens():
    task = SelectiveCopying()
    for row, label in zip(*(part.tolist() for part in task.examples(0, 20)), strict=True):
        sign = row.index(15)
        told = [token for token in row[:sign] if token != 14]
        assert len(told) == 16 and row[sign - 1] != 14
        assert row[sign + 1 :] == [14] * 16 and label == [IGNORED] * (sign + 1) + told
    assert sign == 256 - 17


def test_memorised_pairs_are_fixed_across_seeds():
    task = Memorisation()
    facts = {}
    for seed in (0, 1, UNSEEN):
        input_ids, labels = task.examples(seed, 200)
        pairs = zip(input_ids[:, 0::2].flatten(), labels[:, 1::2].flatten(), strict=True)
        for key, value in pairs:
            assert facts.setdefault(int(key), int(value)) == int(value)
    assert len(facts) == 127 == len(set(facts.values()))
    assert min(facts.values()) >= 127 and max(facts.values()) < 255


def test_sizes_that_do_not_fit_are_refused():
    for config, values in [
        (NoisyRecall.Config, {"vocab_size": 18}),
        (InContextRecall.Config, {"length": 127}),
        (SelectiveCopying.Config, {"copied": 128}),
        (FuzzyRecall.Config, {"length": 23}),
        (Memorisation.Config, {"vocab_size": 3}),
    ]:
        with pytest.raises(UserError):
            config(**values)


def test_score_is_published_accuracy_with_token_share():
    """The mean over classes per 128 rows, as in torchmetrics, against a loop."""
    task = InContextRecall(InContextRecall.Config(vocab_size=8, length=24))
    _, labels = task.examples(UNSEEN, 300)
    answers = torch.where(torch.arange(300)[:, None] % 3 > 0, labels, 5)
    answers[0, 0] = 2  # accuracy 0 for a class that is answered but not a label
    labels[0, 0] = 4
    means = []
    for begin, end in ((0, 128), (128, 256), (256, 300)):
        right, there = [0] * 8, [0] * 8
        said = [False] * 8
        for row, label in zip(answers[begin:end].tolist(), labels[begin:end].tolist(), strict=True):
            for token, wanted in zip(row, label, strict=True):
                if wanted != IGNORED:
                    there[wanted] += 1
                    right[wanted] += token == wanted
                    said[token] = True
        shares = [right[c] / max(1, there[c]) for c in range(8) if there[c] or said[c]]
        means.append(sum(shares) / len(shares) * (end - begin))
    assert task.score(answers, labels) == pytest.approx(sum(means) / 300)
    scored = labels != IGNORED
    share = (answers[scored] == labels[scored]).double().mean().item()
    assert task.beside(answers, labels) == {"share": pytest.approx(share)}
    assert abs(share - sum(means) / 300) > 0.01


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_training_settings(name):
    kind = TASKS.load(name)
    protocol = kind.protocol
    assert (protocol.epochs, protocol.batch_size, protocol.rows) == (200, 128, 1280)
    assert protocol.learning_rates == (1e-4, 5e-4, 1e-3) and protocol.weight_decays == (0, 0.1)
    assert (protocol.schedule, protocol.lowest_rate, protocol.enough) == ("cosine", 1e-6, 0.999)
    assert protocol.keep == "last" and protocol.betas == (0.9, 0.999)
