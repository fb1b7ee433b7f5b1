"""Running cells of a study on an engine or a stand-in for one."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from cli_calls import failed
from counting_study import Counting

from nestling.core.error import UserError
from nestling_lab.studies import Store, run_study
from nestling_lab.studies.executors import ENGINES, open_executor

OPTIONS = {
    "submitit": {"cluster": "local", "timeout_min": 5},
    "ray": {"num_cpus": 1, "include_dashboard": False},
    "dask": {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None},
}


class Later:
    """Runs a call when it is polled for the second time."""

    def __init__(self, function, arguments):
        self.call, self.looks, self.cancelled = (function, arguments), 0, False

    def done(self):
        self.looks += 1
        return self.looks > 1

    def result(self):
        function, arguments = self.call
        return function(*arguments)

    def cancel(self):
        self.cancelled = True


class StandIn:
    def __init__(self):
        self.calls = []

    def submit(self, function, *arguments):
        self.calls.append(Later(function, arguments))
        return self.calls[-1]


def test_every_stage_uses_the_given_executor(tmp_path):
    executor = StandIn()
    done = run_study(Store(tmp_path / "results", Counting(tmp_path)), executor=executor, quiet=True)
    assert {name: result.metrics["value"] for name, result in done.items()} == {
        "n1": 1, "n2": 2, "n3": 3, "sum": 6,
    }  # fmt: skip
    assert len(executor.calls) == 4
    assert all(result.metrics["threads"] == 1 for result in done.values())


def test_failed_cell_cancels_the_rest_and_keeps_results(tmp_path):
    class Failing(Counting):
        def run(self, cell, **options):
            if cell.name == "n2":
                raise UserError("n2 cannot be done")
            return super().run(cell, **options)

    executor, store = StandIn(), Store(tmp_path / "results", Failing(tmp_path))
    with pytest.raises(UserError, match="n2 cannot"):
        run_study(store, executor=executor, quiet=True)
    assert list(store.finished()) == ["n1"]
    assert executor.calls[2].cancelled


@pytest.mark.parametrize("name", list(ENGINES))
def test_executor_runs_cells_or_says_what_it_needs(tmp_path, monkeypatch, name):
    module = ENGINES[name][0]
    if importlib.util.find_spec(module) is None:
        with pytest.raises(UserError, match=rf"--executor {name} needs.*lab\[{name}\]"):
            open_executor(name, {})
        return
    here = [str(Path(__file__).parents[1] / "support"), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))
    more = {"folder": str(tmp_path / "jobs")} if name == "submitit" else {}
    with open_executor(name, OPTIONS[name] | more) as executor:
        store = Store(tmp_path / "results", Counting(tmp_path))
        done = run_study(store, executor=executor, quiet=True)
    assert done["sum"].metrics["value"] == 6
    traces = [path.name for path in tmp_path.iterdir() if "-" in path.name]
    assert len(traces) == 4 and not any(name.endswith(f"-{os.getpid()}") for name in traces)


def test_conflicting_options_are_refused(monkeypatch, capsys):
    command = ("study", "run", "recall-smoke", "--quiet")
    for more, told in (
        (("--executor", "slurm"), "unknown executor 'slurm'"),
        (("--option", "timeout_min=5"), "--option does not apply to --executor local"),
        (("--executor", "ray", "--workers", "2"), "--workers works with --executor local"),
    ):
        assert told in failed(capsys, *command, *more)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "lab[dask]" in failed(capsys, *command, "--executor", "dask")
