"""Debian packages that contain text: fetched once, hashed, and read without installing them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from nestling.core.error import UserError
from nestling.data.cache import cache_folder, damaged, keep

# The sha256 of known versions. A version not listed is accepted as apt delivers it (apt checks
# the signature of the archive) and compared with its own hash from then on.
PINNED = {
    (
        "sword-text-sparv",
        "2.60-1",
    ): "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
    (
        "wesnoth-1.16-httt",
        "1:1.16.9-1",
    ): "05b16a3f8f8204278794aae14d8e6a7c95d2b2faef7337c4997c827a146d1bbd",
    (
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
    ): "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ("anarchism", "15.3-3"): "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
    (
        "python3.11-doc",
        "3.11.2-6+deb12u8",
    ): "50eb63e7f636c4281e9ce1b8f10386f1def42159eddce34fc1f41c46261df71b",
    (
        "sword-text-kjv",
        "14.3-1",
    ): "9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57",
    (
        "sword-text-web",
        "426.0-1",
    ): "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
}
PATIENCE = 900  # seconds to wait for one package


class Package(NamedTuple):
    """The record of a fetched package in the lock file."""

    name: str
    version: str
    sha256: str  # of the .deb file
    file: str  # its name in the folder of the packages


def folder() -> Path:
    """The folder of the packages and their lock file."""
    return cache_folder() / "packages"


def _lock() -> dict[str, Package]:
    path = folder() / "lock.json"
    if not path.exists():
        return {}
    try:
        return {name: Package(**about) for name, about in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; fetch the corpus again") from error


def fetched(name: str) -> Package | None:
    """The record of a package in the lock file; None if its file is missing."""
    found = _lock().get(name)
    return found if found and (folder() / found.file).exists() else None


def check(name: str) -> Package:
    """The record of a fetched package. Raises UserError if its file is missing or has changed."""
    found = fetched(name)
    if not found:
        raise UserError(f"package {name} has not been fetched; run nestling data fetch")
    if _sha256(folder() / found.file) != found.sha256:
        raise damaged(folder() / found.file, "its sha256 is not the one recorded")
    return found


def _run(command: list[str], where: Path, purpose: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=where,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{purpose}: timed out after {PATIENCE} seconds; check the network and try again"
        ) from error
    if done.returncode:
        reasons = re.findall(r"^E: (.*)$", done.stderr, re.MULTILINE) or [done.stderr.strip()]
        raise UserError(
            f"{purpose} ({reasons[0]}): connect to the network, run apt-get update as root, and "
            "fetch again; the corpus 'stdlib' needs no network"
        )
    return done.stdout.strip()


def _download(name: str, draft: Path) -> Package:
    options = ["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30"]
    _run(["apt-get", "download", *options, name], draft, f"cannot fetch {name}")
    files = sorted(draft.glob("*.deb"))
    if len(files) != 1:
        raise UserError(f"apt-get download {name} wrote {len(files)} files instead of one")
    (file,) = files
    version = _run(["dpkg-deb", "-f", str(file), "Version"], draft, f"{file.name} is damaged")
    package = Package(name, version, _sha256(file), file.name)
    pinned = PINNED.get((name, version), package.sha256)
    if pinned != package.sha256:
        raise UserError(
            f"{file.name} has sha256 {package.sha256}, expected {pinned}: do not use it; "
            "check the sources of apt"
        )
    os.replace(file, folder() / file.name)
    return package


def fetch(name: str, report: Callable[[str], None] = print) -> Package:
    """Fetch a package, unless it is present and unchanged, and record its version and sha256.

    The file and its record appear when the package is complete; an interrupted fetch leaves
    neither. Raises UserError without apt-get, the network, disk space or permission.
    """
    if fetched(name):
        package = check(name)
        report(f"{name} {package.version} is already fetched")
        return package
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise UserError(
                f"fetching {name} needs {tool} (Debian or Ubuntu), which is not installed; "
                "use the corpus 'stdlib', or name a text file of your own"
            )
    report(f"fetching {name} ...")
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder(), prefix=".fetch-") as draft:
            package = _download(name, Path(draft))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder()}: {error.strerror}; set NESTLING_DATA to a folder with "
            "free space that you may write"
        ) from error
    record = {**_lock(), name: package}
    text = json.dumps({key: value._asdict() for key, value in sorted(record.items())}, indent=2)
    keep(folder() / "lock.json", text.encode())
    report(f"{name} {package.version} sha256 {package.sha256}")
    return package


def members(name: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of the files in a fetched package that match ``pattern``, sorted by path."""
    package = check(name)
    file = folder() / package.file
    found = {}
    with tempfile.TemporaryFile() as unpacked:
        command = ["dpkg-deb", "--fsys-tarfile", str(file)]
        done = subprocess.run(command, stdout=unpacked, stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise damaged(file, "dpkg-deb cannot read it")
        unpacked.seek(0)
        with tarfile.open(fileobj=unpacked) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content and re.search(pattern, member.name):
                    found[member.name] = content.read()
    if not found:
        raise UserError(f"{file.name} has no file that matches {pattern}: its layout has changed")
    yield from sorted(found.items())
