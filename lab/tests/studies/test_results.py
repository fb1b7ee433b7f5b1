"""What is committed is what the grids of the studies ask for."""

from pathlib import Path

import pytest

from nestling_lab.studies import STUDIES, Store, load_study

RESULTS = Path(__file__).resolve().parents[3] / "results"


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_result_is_one_that_the_grid_asks_for(name):
    """Of its present settings, and of a stage that the results before it lead to."""
    store = Store(RESULTS, load_study(name))
    assert store.outdated() == [], "rename the study, run these again, or delete them"
    for cell, result in store.finished().items():
        assert result.name == f"{name}/{cell}"


def test_every_folder_of_results_is_of_a_study():
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders <= set(STUDIES.names())
