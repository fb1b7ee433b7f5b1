"""Shards of a study: complete, resumable, and equal to one run when merged."""

import multiprocessing
import os
import signal

import pytest
from counting_study import Counting

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.studies import STUDIES, Shard, Store, load_study, run_study


class Dying(Counting):
    """Kills its process during the second cell, the first time."""

    def run(self, cell, **options) -> Result:
        result = super().run(cell, **options)
        flag = self.folder.parent / "has-died"
        if cell.name == "n2" and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def figures(store):
    return {name: result.metrics["value"] for name, result in store.finished().items()}


@pytest.fixture
def trace(tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


def traces(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


@pytest.mark.parametrize("name", STUDIES.names())
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_cell_is_in_one_even_shard(name, count):
    study = load_study(name)
    cells = study.cells({})
    shares = [Shard(i + 1, count).take(study, cells) for i in range(count)]
    assert sorted(cell.name for share in shares for cell in share) == sorted(c.name for c in cells)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_merged_shards_equal_one_run(tmp_path, trace):
    study = Counting(trace)
    whole, one, two, merged = (Store(tmp_path / place, study) for place in "abcd")
    run_study(whole, quiet=True)
    run_study(one, shard=Shard(1, 2), quiet=True)
    run_study(two, shard=Shard(2, 2), quiet=True)
    assert set(figures(one)).isdisjoint(figures(two)), "a cell was run by both"
    assert merged.take_in(tmp_path / "b") == ["n1", "n3"]
    assert merged.take_in(tmp_path / "c") == ["n2"]
    assert merged.take_in(tmp_path / "c") == []
    # a cell that depends on all others belongs to the shard of its name's hash
    for index in (1, 2):
        run_study(merged, shard=Shard(index, 2), quiet=True)
    assert figures(merged) == figures(whole)
    assert traces(trace).count("sum") in (1, 2), "once for each whole"


def test_shards_in_one_folder_need_no_merging(tmp_path, trace):
    store = Store(tmp_path / "results", Counting(trace))
    for index in (1, 2, 3, 1, 2, 3):
        run_study(store, shard=Shard(index, 3), quiet=True)
    assert traces(trace) == ["n1", "n2", "n3", "sum"] and len(figures(store)) == 4


def test_result_of_other_settings_is_not_merged(tmp_path, trace):
    run_study(Store(tmp_path / "a", Counting(trace, factor=3)), quiet=True)
    assert Store(tmp_path / "b", Counting(trace)).take_in(tmp_path / "a") == []
    with pytest.raises(UserError, match="no results"):
        Store(tmp_path / "b", Counting(trace)).take_in(tmp_path / "nowhere")


def attempt(root, trace):
    run_study(Store(root, Dying(trace)), quiet=True)


def test_killed_study_repeats_no_finished_cell(tmp_path, trace):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=attempt, args=(tmp_path / "results", trace))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    attempt(tmp_path / "results", trace)
    assert figures(Store(tmp_path / "results", Dying(trace))) == {
        "n1": 1, "n2": 2, "n3": 3, "sum": 6,
    }  # fmt: skip
    assert traces(trace) == ["n1", "n2", "n2", "n3", "sum"], "only the cell that died ran again"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_invalid_shard_is_a_user_error(text):
    with pytest.raises(UserError, match="such as 1/4"):
        Shard.parse(text)
