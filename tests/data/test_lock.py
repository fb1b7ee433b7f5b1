"""Locks: one named holder at a time, and none after a process has died."""

import threading

import pytest
from held import WHAT, held

from nestling.core.error import UserError
from nestling.data import lock
from nestling.data.lock import locked


def test_lock_of_another_process_is_refused_until_it_ends(tmp_path):
    file, real, link = (tmp_path / name for name in ("notes.memory", "real", "link"))
    real.write_text("")
    link.symlink_to(real)
    with held(file, link) as child:
        # a link is treated as its target
        for name in (file, tmp_path / "." / "notes.memory", real):
            with pytest.raises(UserError, match="in use") as raised, locked(name):
                pass
            assert f"{WHAT} (process {child.pid}, since 2" in str(raised.value)
            assert "\n" not in str(raised.value)
        child.kill()
        child.wait()
        with locked(file), locked(real):
            pass
    assert sorted(tmp_path.iterdir()) == [link, real]


def test_lock_is_reentrant_per_thread(tmp_path):
    told = []

    def other():
        try:
            with locked(tmp_path / "m"):
                told.append("taken")
        except UserError as error:
            told.append(str(error))

    def ask():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return told.pop()

    with locked(tmp_path / "m", "the first"):
        with locked(tmp_path / "m"):
            assert "the first (process" in ask()
        assert "the first (process" in ask()
    assert ask() == "taken"
    assert list(tmp_path.iterdir()) == []


def test_lock_is_released_on_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "m"):
        raise KeyError
    with locked(tmp_path / "m"):
        pass


def test_unwritable_path_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot lock"), locked(tmp_path / "file" / "m"):
        pass


def test_unsigned_lock_is_waited_for(tmp_path, monkeypatch):
    """Between taking and signing a lock, and between removing the name and releasing it."""
    place, waits = tmp_path / "m.lock", []
    with held(tmp_path / "m") as child:
        signed = place.read_text()
        place.write_text("")

        def moment(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                place.write_text(signed)

        monkeypatch.setattr(lock, "sleep", moment)
        with pytest.raises(UserError, match=rf"{WHAT} \(process {child.pid}"):
            lock.locked(tmp_path / "m").__enter__()
        assert len(waits) == 3
        place.write_text("")
        with pytest.raises(UserError, match="in use by another process; wait"):
            lock.locked(tmp_path / "m").__enter__()
        assert len(waits) == 3 + lock.TRIES - 1

        def released(seconds):
            child.kill()
            child.wait()

        monkeypatch.setattr(lock, "sleep", released)
        with locked(tmp_path / "m"):
            pass
