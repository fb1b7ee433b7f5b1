"""In-context recall matches its docstring."""

import math

import pytest
import torch

from nestling.core.error import UserError
from nestling.tasks import IGNORED
from nestling.tasks.recall import Recall

CONFIGS = [Recall.Config(), Recall.Config(period=64), Recall.Config(keys=3, values=5, period=1)]


@pytest.mark.parametrize("config", CONFIGS)
def test_pairs_are_queried_once_after_two_periods(config):
    task = Recall(config)
    tokens, labels = task.examples(seed=3, count=50)
    assert tokens.shape == (50, task.length) and tokens.max() < task.vocab_size
    for row, answer in zip(tokens.tolist(), labels.tolist(), strict=True):
        pairs = row[: 2 * config.keys]
        mapping = dict(zip(pairs[0::2], pairs[1::2], strict=True))
        assert sorted(mapping) == list(range(config.keys))
        asked = [t for t, label in enumerate(answer) if label != IGNORED]
        assert sorted(row[t] for t in asked) == list(range(config.keys))
        for t in asked:
            assert answer[t] == mapping[row[t]]
            assert t - (pairs.index(row[t]) + 1) >= 2 * config.period


def test_wait_is_as_short_as_the_rule_allows():
    task = Recall()
    tokens, labels = task.examples(seed=0, count=400)
    first = int((labels[0] != IGNORED).nonzero()[0])
    written_last = tokens[:, 2 * task.config.keys - 2]
    gaps = first - (2 * task.config.keys - 1)
    assert gaps == 2 * task.config.period
    assert (tokens[:, first] == written_last).any(), "the shortest gap does occur"


def test_oracle_scores_one_and_random_scores_chance():
    task = Recall()
    tokens, labels = task.examples(seed=1, count=500)
    assert task.score(task.oracle(tokens), labels) == 1.0
    guesses = torch.randint(
        task.config.keys,
        task.config.keys + task.config.values,
        labels.shape,
        generator=torch.Generator().manual_seed(5),
    )
    sigma = math.sqrt(task.chance * (1 - task.chance) / (labels != IGNORED).sum().item())
    assert abs(task.score(guesses, labels) - task.chance) < 3 * sigma


def test_earlier_answers_give_no_hint():
    """Guessing a value that no earlier answer had is no better than chance."""
    task = Recall()
    tokens, labels = task.examples(seed=2, count=2000)
    answers = labels[labels != IGNORED].view(2000, -1) - task.config.keys
    fresh = torch.tensor(
        [min(set(range(16)) - set(row[:-1]), default=0) for row in answers.tolist()]
    )
    hits = (fresh == answers[:, -1]).double().mean().item()
    assert abs(hits - task.chance) < 3 * math.sqrt(task.chance * (1 - task.chance) / 2000)


def test_same_seed_repeats_and_other_seeds_are_disjoint():
    task = Recall()
    one, again, other = (task.examples(seed, 300).input_ids for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not {tuple(row) for row in one.tolist()} & {tuple(row) for row in other.tolist()}


def test_global_rng_is_untouched():
    before = torch.random.get_rng_state()
    Recall().examples(seed=0, count=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_sizes_below_one_are_refused():
    with pytest.raises(UserError, match="period is 0"):
        Recall.Config(period=0)
