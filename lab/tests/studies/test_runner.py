"""Studies run each missing cell once and keep its result."""

import pytest
from counting_study import Counting

from nestling.core.error import UserError
from nestling_lab.studies import Store, run_study


def traces(folder) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


@pytest.fixture
def trace(tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_every_cell_runs_once_stage_by_stage(tmp_path, trace, workers):
    store = Store(tmp_path / "results", Counting(trace))
    done = run_study(store, workers=workers, quiet=True)
    assert {name: result.metrics["value"] for name, result in done.items()} == {
        "n1": 1, "n2": 2, "n3": 3, "sum": 6,
    }  # fmt: skip
    assert all(result.metrics["threads"] == 1 for result in done.values())
    run_study(store, workers=workers, quiet=True)
    assert traces(trace) == ["n1", "n2", "n3", "sum"], "nothing is run twice"


def test_filter_leaves_other_cells_pending(tmp_path, trace):
    store = Store(tmp_path, Counting(trace))
    assert sorted(run_study(store, cells="n[12]", quiet=True)) == ["n1", "n2"]
    assert sorted(run_study(store, cells="n3", quiet=True)) == ["n1", "n2", "n3"]
    assert [cell.name for cell in store.pending(store.finished())] == ["sum"]


def test_cells_finished_by_another_process_are_skipped(tmp_path, trace):
    ran = []

    class Beside(Counting):
        def run(self, cell, **options):
            ran.append(cell.name)
            if cell.name == "n1":
                run_study(Store(tmp_path, Counting(trace)), cells="n2", quiet=True)
            return super().run(cell, **options)

    run_study(Store(tmp_path, Beside(trace)), quiet=True)
    assert ran == ["n1", "n3", "sum"]


def test_result_of_other_settings_is_ignored(tmp_path, trace):
    run_study(Store(tmp_path, Counting(trace)), quiet=True)
    changed = Store(tmp_path, Counting(trace, factor=2))
    assert changed.finished() == {}
    assert changed.outdated() == ["n1", "n2", "n3", "sum"]
    assert run_study(changed, quiet=True)["sum"].metrics["value"] == 12


def test_truncated_result_is_a_user_error(tmp_path, trace):
    store = Store(tmp_path, Counting(trace))
    run_study(store, cells="n1", quiet=True)
    path = store.folder / "n1.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match="delete it and run again"):
        store.finished()


def test_zero_workers_is_a_user_error(tmp_path, trace):
    with pytest.raises(UserError, match="at least 1"):
        run_study(Store(tmp_path, Counting(trace)), workers=0)


def test_progress_is_plain_lines_without_a_terminal(tmp_path, trace, capsys):
    run_study(Store(tmp_path, Counting(trace)))
    said = capsys.readouterr().err
    assert "n1 | 1 of 1 steps | loss 0.500 | 0 s left" in said and "n3: finished" in said
