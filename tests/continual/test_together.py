"""Several writers of one memory file: one at a time, and nothing unread is overwritten."""

import pytest
from apart import process
from continual_together import learn

from nestling.continual.file import read_memory
from nestling.continual.opening import open_learner
from nestling.continual.session import Session
from nestling.core.error import UserError
from nestling.models.pretrained import load_base, parse_levels, save_stacked

LEVELS = "8:1e-2,32:1e-2"
TEXT, OTHER = "a text about one thing. " * 4, "and one about another! " * 4


def test_concurrent_learners_lose_nothing(folder, tmp_path):
    model = tmp_path / "model"
    save_stacked(load_base(folder), parse_levels(LEVELS), "partition", model)
    children = [process(learn, model, tmp_path / "m", number) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    digests = {digest for _, digest, *_ in read_memory(tmp_path / "m").about["documents"]}
    assert len(digests) == 3
    assert not list(tmp_path.glob("*.lock"))


@pytest.fixture
def open_both(folder, tmp_path):
    """Two learners of one file, both opened before either writes; with ``first`` it exists."""

    def make(first: bool):
        if first:
            learner = open_learner(folder, tmp_path / "m", levels=LEVELS)
            learner.read("what both know. " * 4)
            learner.save(tmp_path / "m")
        return [open_learner(folder, tmp_path / "m", levels=LEVELS) for _ in range(2)]

    return make


@pytest.mark.parametrize("first", [False, True])
def test_newer_file_of_another_process_is_not_overwritten(open_both, tmp_path, first):
    one, two = open_both(first)
    one.read(TEXT)
    two.read(OTHER)
    one.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(UserError, match="another has written it"):
        two.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    two.save(tmp_path / "other")
    one.read(OTHER)
    one.save(tmp_path / "m")  # its own version may be written again
    two.load(tmp_path / "m")
    two.save(tmp_path / "m")
    assert len(read_memory(tmp_path / "m").about["documents"]) == 2 + first


def test_fork_inherits_the_known_file_version(open_both, tmp_path):
    one, _ = open_both(True)
    trial = one.fork()
    trial.read(TEXT)
    trial.save(tmp_path / "m")
    with pytest.raises(UserError, match="another has written it"):
        one.save(tmp_path / "m")
    trial.save(tmp_path / "m")


def test_session_refuses_a_memory_that_was_not_loaded(open_both, tmp_path):
    learner, _ = open_both(True)
    Session(learner=learner, memory=tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "n")
    with pytest.raises(UserError, match="load it first"):
        Session(learner=learner, memory=tmp_path / "n")


def test_deleted_memory_is_written_again(open_both, tmp_path):
    learner, _ = open_both(True)
    (tmp_path / "m").unlink()
    learner.save(tmp_path / "m")
    assert read_memory(tmp_path / "m").about["documents"]


def test_failed_load_does_not_mark_the_file_as_known(open_both, folder, tmp_path):
    open_both(True)
    other = open_learner(folder, tmp_path / "new", levels="16,64")
    with pytest.raises(UserError, match="other levels"):
        other.load(tmp_path / "m")
    with pytest.raises(UserError, match="load it first"):
        Session(learner=other, memory=tmp_path / "m")
