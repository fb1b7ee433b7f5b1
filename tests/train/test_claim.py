"""A folder belongs to one run, which may have been killed before it had written anything."""

import pytest

from nestling.core.error import UserError
from nestling.train.job import JOB, Job, claim


def test_draft_of_a_killed_process_is_ignored(tmp_path):
    (tmp_path / f".{JOB}.x1").write_text("{")
    claim(tmp_path, Job(), "sha", resume=True)
    claim(tmp_path, Job(), "sha", resume=True)
    with pytest.raises(UserError, match="add --resume"):
        claim(tmp_path, Job(), "sha", resume=False)


def test_unrelated_folder_is_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains no run"):
        claim(tmp_path, Job(), "sha", resume=True)
