"""A folder belongs to one run, which may have been killed before it had written anything."""

import pytest

from nestling.core.error import UserError
from nestling.train.job import JOB, Job, claim


def test_the_draft_of_a_process_that_was_killed_is_no_other_run(tmp_path):
    (tmp_path / f".{JOB}.x1").write_text("{")
    claim(tmp_path, Job(), "sha", resume=True)
    claim(tmp_path, Job(), "sha", resume=True)
    with pytest.raises(UserError, match="add --resume"):
        claim(tmp_path, Job(), "sha", resume=False)


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains no run"):
        claim(tmp_path, Job(), "sha", resume=True)
