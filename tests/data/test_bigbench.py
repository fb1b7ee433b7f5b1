"""BIG-bench questions are read only from the cache."""

import io
import json
import tarfile

import pytest

from nestling.core.error import UserError
from nestling.data import bigbench

EXAMPLES = [{"input": "made up?", "target_scores": {"yes": 0.0, "no": 1.0, "maybe": 0}}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "cache"))


def archive(path):
    """An archive with the layout of BIG-bench and generated questions."""
    content = json.dumps({"examples": EXAMPLES}).encode()
    with tarfile.open(path, "w:gz") as target:
        for name in [*bigbench.TASKS.values(), "other"]:
            member = tarfile.TarInfo(f"{bigbench.INSIDE}/{name}/task.json")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return path


def test_needed_files_of_the_pinned_archive_are_kept(tmp_path, monkeypatch):
    path = archive(tmp_path / "b.tar.gz")
    with pytest.raises(UserError, match="known release"):
        bigbench.unpack(path)
    import hashlib

    monkeypatch.setattr(bigbench, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    bigbench.unpack(path)
    for name in bigbench.TASKS:
        assert bigbench.read(name) == [bigbench.Choice("made up?", ("yes", "no", "maybe"), 1)]
    assert len(list(bigbench.place("social_iqa").parent.iterdir())) == len(bigbench.TASKS)
    said = []
    bigbench.fetch(said.append)
    assert said == ["bigbench is already fetched"]


def test_mistakes_are_user_errors():
    with pytest.raises(UserError, match="did you mean 'social_iqa'"):
        bigbench.read("social_iqua")
    with pytest.raises(UserError, match="data fetch bigbench"):
        bigbench.read("social_iqa")
    path = bigbench.place("social_iqa")
    path.parent.mkdir(parents=True)
    path.write_text('{"examples": [{"input": "q"}]}')
    with pytest.raises(UserError, match="damaged"):
        bigbench.read("social_iqa")
