"""Packing and loading: every token once, aligned starts, exact positions."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.error import UserError
from nestling.data import Batch, Documents, Loader, Packer, evaluation_batches, order, positions
from nestling.train.ranks import Ranks

PAD = 1


def made(lengths: list[int]) -> Documents:
    """Documents of the given positions; every token id inside a document is new."""
    parts, bounds, fresh = [], [0], 2
    for length in lengths:
        parts += [0, *range(fresh, fresh + length - 1), 0]
        bounds.append(len(parts))
        fresh += length - 1
    return Documents(ids=torch.tensor(parts), bounds=torch.tensor(bounds), pad_id=PAD)


def texts_of_rows(batches) -> list[list[list[tuple[int, int]]]]:
    """For each row its documents, as (input, label) pairs."""
    rows = [[] for _ in range(len(batches[0].mask))]
    for batch in batches:
        for row, read in enumerate(rows):
            for t in range(batch.mask.shape[1]):
                if batch.reset[row, t]:
                    read.append([])
                if batch.mask[row, t]:
                    read[-1].append((int(batch.input_ids[row, t]), int(batch.labels[row, t])))
    return rows


def pairs(documents: Documents, index: int) -> list[tuple[int, int]]:
    start, stop = documents.bounds[index : index + 2].tolist()
    ids = documents.ids[start:stop].tolist()
    return list(zip(ids[:-1], ids[1:], strict=True))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    batch_size=st.integers(1, 4),
    align=st.sampled_from([1, 3, 4]),
)
def test_evaluation_scores_every_token_once_only(lengths, batch_size, align):
    documents = made(lengths)
    batches = list(
        evaluation_batches(documents, batch_size=batch_size, sequence_length=12, align=align)
    )
    scored = sum(int((batch.labels != -100).sum()) for batch in batches)
    assert scored == documents.num_targets == sum(lengths)
    read = sorted(text for row in texts_of_rows(batches) for text in row)
    assert read == sorted(pairs(documents, index) for index in range(len(lengths)))


@pytest.mark.parametrize("align", [1, 4, 8])
def test_starts_are_aligned_and_padding_is_masked(align):
    loader = Loader(made([5, 9, 30, 2, 17]), batch_size=3, sequence_length=16, align=align)
    for _ in range(20):
        batch = next(loader)
        assert not (batch.reset.nonzero()[:, 1] % align).any()
        assert (batch.input_ids[~batch.mask] == PAD).all()
        assert (batch.labels[~batch.mask] == -100).all()
        assert (batch.labels[batch.mask] != -100).all()
        assert not (batch.reset & ~batch.mask).any()


def test_an_epoch_reads_every_document_once_in_a_new_order():
    documents = made([3, 5, 7, 9, 11, 13, 15, 17])
    loader = Loader(documents, batch_size=1, sequence_length=80, seed=3)
    firsts = []
    for _ in range(2):
        (row,) = texts_of_rows([next(loader)])
        assert sorted(row) == sorted(pairs(documents, index) for index in range(8))
        firsts.append(row)
    assert firsts[0] != firsts[1]


def test_same_seed_same_batches_and_global_rng_untouched():
    documents = made([5, 9, 30, 2, 17])
    before = torch.get_rng_state()
    one, two, other = (
        Loader(documents, batch_size=2, sequence_length=8, seed=seed) for seed in (1, 1, 2)
    )
    same = [(next(one), next(two), next(other)) for _ in range(10)]
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b, _ in same)
    assert not all(torch.equal(a.input_ids, c.input_ids) for a, _, c in same)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("after", [0, 1, 7, 23])
def test_position_is_restored_exactly(after):
    documents = made([5, 9, 30, 2, 17])

    def fresh():
        return Loader(documents, batch_size=2, sequence_length=8, seed=5, align=4)

    loader = fresh()
    for _ in range(after):
        next(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = fresh()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == loader.state_dict()
    for _ in range(30):
        for a, b in zip(next(loader), next(resumed), strict=True):
            assert torch.equal(a, b)


def test_resuming_with_another_shape_or_text_is_refused():
    documents = made([5, 9])
    state = Loader(documents, batch_size=2, sequence_length=8).state_dict()
    with pytest.raises(UserError, match="batch_size 2, this run has 3"):
        Loader(documents, batch_size=3, sequence_length=8).load_state_dict(state)
    with pytest.raises(UserError, match="same corpus"):
        Loader(made([5, 8]), batch_size=2, sequence_length=8).load_state_dict(state)


def test_ranks_share_an_epoch():
    documents = made([4] * 7)
    seen = []
    for rank in range(3):
        count = len(range(rank, 7, 3))
        loader = Loader(
            documents, batch_size=1, sequence_length=4 * count, rank=rank, world=3, seed=2
        )
        seen += texts_of_rows([next(loader)])[0]
    assert sorted(seen) == sorted(pairs(documents, index) for index in range(7))
    with pytest.raises(UserError, match="give more text"):
        Loader(made([4]), batch_size=1, sequence_length=4, world=2)
    with pytest.raises(UserError, match="rank is 2"):
        Loader(documents, batch_size=1, sequence_length=4, rank=2, world=2)


def test_positions_count_from_each_document_start():
    documents = made([30, 5, 3])
    packer_order = iter([0, 1, 2])
    packer = Packer(
        documents,
        batch_size=1,
        sequence_length=8,
        align=4,
        following=lambda: next(packer_order, None),
    )
    found, carried = [], None
    for _ in range(6):
        batch = packer.batch()
        place, carried = positions(batch, carried)
        found += place[batch.mask].tolist()
    assert found == [*range(30), *range(5), *range(3)]


def test_length_not_divisible_by_period_is_refused():
    with pytest.raises(UserError, match="choose 16"):
        Loader(made([5]), batch_size=1, sequence_length=20, align=16)


@pytest.mark.parametrize("computed", [False, True])
def test_ranks_read_their_rows_and_can_change_in_number(computed, monkeypatch):
    if computed:
        monkeypatch.setattr(order, "LISTED", 0)
    documents = made([7, 3, 20, 5, 9, 4, 13, 6])
    settings = {"batch_size": 4, "sequence_length": 6, "seed": 3}
    alone = Loader(documents, **settings)
    expected = [next(alone) for _ in range(12)]

    def loaders(world):
        found = [(Ranks(rank, world), Loader(documents, **settings)) for rank in range(world)]
        for ranks, loader in found:
            loader.read_only(ranks.rows(4))
        return found

    def whole(found):
        """The batch of all processes, each of which has read its own rows."""
        batches = [next(loader) for _, loader in found]
        counts = {int((batch.labels != -100).sum()) for batch in batches}
        shares = [ranks.share(batch) for (ranks, _), batch in zip(found, batches, strict=True)]
        return Batch(*map(torch.cat, zip(*shares, strict=True))), counts

    running, place = loaders(2), 0
    for world in (4, 1, 2):
        for _ in range(4):
            batch, counts = whole(running)
            assert all(map(torch.equal, batch, expected[place]))
            assert counts == {int((expected[place].labels != -100).sum())}
            place += 1
        states = [loader.state_dict() for _, loader in running]
        assert all(state == states[0] for state in states)
        running = loaders(world)
        for _, loader in running:
            loader.load_state_dict(states[0])
