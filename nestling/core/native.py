"""C++ sources, compiled for this machine on first use; optional, for speed only."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from nestling.core.gradient import wanted_twice

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
# these change no results; without them the compiler must preserve errno and traps
FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
SECONDS = 900  # timeout of the compiler, which may take minutes on a busy machine
PACKAGE = Path(__file__).parents[1]
SWITCH = "NESTLING_NATIVE"  # environment variable; 0: nothing is compiled or loaded


def allowed() -> bool:
    """Whether the environment allows compiled implementations."""
    return os.environ.get(SWITCH, "1") != "0"


def plain(x: Tensor) -> bool:
    """Whether a tensor is a plain one, not of a subclass such as DTensor."""
    return type(x) in (Tensor, nn.Parameter)


def usable(x: Tensor) -> bool:
    """Whether compiled implementations support the dtype and device of x here.

    They cannot be traced, and not all have second-order gradients.
    """
    known = x.dtype in (torch.float32, torch.float64)
    here = known and x.is_cpu and plain(x) and not torch.compiler.is_compiling()
    return here and not wanted_twice()


def library(folder: Path, source: str) -> ctypes.CDLL | None:
    """The C++ file ``source`` in ``folder`` as a library, compiled on first use on this machine.

    Returns None without a compiler or with NESTLING_NATIVE=0; returns None and warns if compiling
    fails. Libraries are cached in ~/.cache/nestling/native (or under XDG_CACHE_HOME) by a hash of
    the source, all headers of the package, flags, compiler and processor.
    """
    return _library(folder, source) if allowed() else None


@functools.cache
def _library(folder: Path, source: str) -> ctypes.CDLL | None:
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    files = [folder / source, *sorted({*folder.glob("*.h"), *PACKAGE.rglob("*.h")})]
    digest = hashlib.sha256()
    for part in (*(path.read_bytes() for path in files), " ".join(FLAGS).encode(), _machine()):
        digest.update(hashlib.sha256(part).digest())
    digest.update(compiler.encode())
    name = f"{folder.name}-{digest.hexdigest()[:16]}.so"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        target = cache / "nestling" / "native" / name
        if not target.exists():
            _compile(compiler, files[0], target)
        return ctypes.CDLL(str(target))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        first = (reason.strip().splitlines() or ["no reason given"])[0]
        warnings.warn(
            f"{folder.name}/{source} failed to compile, using the slower torch implementation "
            f"({SWITCH}=0 silences this): {first}",
            stacklevel=2,
        )
        return None


def _machine() -> bytes:
    """A description of the processor, which -march=native depends on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
        return (platform.machine() + (lines[0] if lines else "")).encode()
    except OSError:
        return platform.processor().encode()


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Compile beside the target and then move, so that no partial library is ever loaded."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, "-I", str(PACKAGE), str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        os.replace(made, target)
