"""The gate over levels: a learner falls back to its base where its levels do not help."""

from dataclasses import replace

import pytest
import torch

from nestling.continual import ContinualLearner, Options
from nestling.continual.gate import GATES, seats
from nestling.continual.methods import GradientMethod, Levels
from nestling.continual.stream import Cut
from nestling.core.error import UserError
from nestling.core.mixture import SHARE, followed, regret
from nestling.models.pretrained import parse_levels

every_gate = pytest.mark.parametrize("gate", GATES)
only_llama = pytest.mark.parametrize("kind", ["llama"])


@every_gate
def test_unwritten_memory_equals_the_base(new_learner, ids, gate):
    plain, gated = new_learner(), new_learner(gate=gate)
    [expected] = plain.losses(ids[:72])
    assert all(torch.equal(row, expected) for row in gated.losses(ids[:72], gate))
    found, alone = (learner.score(ids[:72]).nats for learner in (gated, plain))
    assert found == pytest.approx(alone, rel=1e-12)


def test_experts_are_the_slowest_levels_cumulatively(new_learner, ids):
    learner = new_learner()
    learner.read_tokens(ids[:72])
    found = learner.losses(ids[:40], "levels")
    assert len(found) == 3
    for count, row in enumerate(found):
        other = learner.fork()
        for level in range(count, 2):
            other.reset(level)
        assert torch.equal(row, other.losses(ids[:40])[0]), count
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    assert torch.equal(learner.losses(ids[:40], "base"), found[[0, 2]])


@every_gate
@only_llama
def test_gated_loss_is_within_the_regret_bound(new_learner, ids, gate):
    learner = new_learner("8:3e-2,32:3e-2", gate=gate)
    learner.read_tokens(ids)
    for text in (ids[:100], ids[::-1]):
        rows = learner.losses(text, gate).double().sum(1)
        reading = learner.score(text)
        assert reading.scored == len(text) - 1
        best = float(rows.min())
        assert reading.nats <= best + regret(len(rows), reading.scored, SHARE) + 1e-6
        assert reading.nats < float(rows.max())


@only_llama
def test_gated_losses_are_causal(new_learner, ids):
    learner = new_learner(gate="levels")
    learner.read_tokens(ids)

    def losses(text):
        return followed(-learner.losses(text, "levels"), SHARE)[0]

    other = [*ids[:30], *reversed(ids[30:60])]
    # the loss at place i is of token i + 1
    assert torch.equal(losses(ids[:60])[:29], losses(other)[:29])
    assert not torch.equal(losses(ids[:60])[29:], losses(other)[29:])


class Letters:
    """A tokenizer whose tokens are written as numbers."""

    chat_template = None

    def __call__(self, text, verbose=False, add_special_tokens=True):
        return {"input_ids": [int(word) if word.isdigit() else 0 for word in text.split()]}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(int(i)) for i in ids)


@every_gate
def test_greedy_generation_matches_scoring(models, ids, kind, gate):
    """Greedy tokens against a loop that rereads the text for each expert and token."""
    learner = ContinualLearner(
        models[kind], Letters(), levels=parse_levels("8:3e-2,32:3e-2"), gate=gate
    )
    learner.read_tokens(ids[:72])
    text = ids[100:120]
    written = learner.generate(" ".join(map(str, text)), tokens=6)
    experts = learner.experts()
    chosen = [experts[i] for i in seats(gate, len(experts))]
    for token in map(int, written.split()):
        with torch.no_grad():
            given = torch.stack(
                [
                    learner.reader.read(weights, torch.tensor([text]))[0][0].double().log_softmax(1)
                    for weights in chosen
                ]
            )
        within = given[:, :-1].gather(
            2, torch.tensor(text[1:])[None, :, None].repeat(len(given), 1, 1)
        )
        _, weights = followed(within[..., 0], SHARE)
        mixed = torch.logsumexp(weights[:, None] + given[:, -1], 0)
        assert float(mixed[token]) > float(mixed.max()) - 1e-4
        text = [*text, token]
    assert len(text) == 26


@only_llama
def test_sampling_through_a_gate_changes_the_text(models, ids, kind):
    # random weights have small norms: within the trust bound nothing can be learned
    free = tuple(replace(level, trust=None) for level in parse_levels("8:3e-2,32:3e-2"))
    learner = ContinualLearner(models[kind], Letters(), levels=free)
    learner.read_tokens(ids)
    prompt = " ".join(map(str, reversed(ids[:40])))
    said = {}
    for gate in (None, *GATES):
        learner.gate = gate
        said[gate] = learner.generate(prompt, tokens=10, temperature=1.0, seed=3)
        assert said[gate] == learner.generate(prompt, tokens=10, temperature=1.0, seed=3)
    assert said[None] != said["levels"]


def test_unknown_gate_is_refused(models):
    with pytest.raises(UserError, match="levels"):
        ContinualLearner(models["llama"], levels=parse_levels("8"), gate="level")


@pytest.mark.parametrize("trained", ["all", "lora"])
def test_fine_tuning_is_gated_with_its_base(models, ids, trained):
    method = GradientMethod(models["llama"], lr=1e-2, sizes=Cut(8, 32), trained=trained)
    options = Options(segment=8, window=32)
    levels = Levels(
        ContinualLearner(models["llama"], levels=parse_levels("8:1e-2"), options=options)
    )
    before = method.losses(ids[:40])
    assert before.shape == (2, 39) and torch.equal(before[0], before[1])
    method.read(ids[:72])
    after = method.losses(ids[:40])
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])
    assert float(after[1].double().sum()) == pytest.approx(method.score(ids[:40]).nats)
    torch.testing.assert_close(levels.losses(ids[:40])[0], after[0], rtol=0, atol=1e-4)
