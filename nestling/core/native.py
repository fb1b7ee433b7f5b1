"""C++ sources compiled for this machine when first asked for; never needed, only faster."""

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
# no value depends on these; without them the compiler must keep errno and traps exact
FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
SECONDS = 900  # a compiler that takes longer is given up; on a busy machine it takes minutes
PACKAGE = Path(__file__).parents[1]
SWITCH = "NESTLING_NATIVE"  # environment; 0: nothing is compiled or loaded


def allowed() -> bool:
    """Whether the environment leaves compiled forms on."""
    return os.environ.get(SWITCH, "1") != "0"


def plain(x: Tensor) -> bool:
    """Whether a tensor is of no class that behaves in its own way, such as DTensor."""
    return type(x) in (Tensor, nn.Parameter)


def usable(x: Tensor) -> bool:
    """Whether compiled forms compute in x's type and place at all.

    None is traced, and not all have second derivatives.
    """
    known = x.dtype in (torch.float32, torch.float64)
    here = known and x.is_cpu and plain(x) and not torch.compiler.is_compiling()
    return here and not wanted_twice()


def library(folder: Path, source: str) -> ctypes.CDLL | None:
    """The C++ file ``source`` of ``folder`` as a library, compiled now or earlier on this machine.

    All headers of the package belong to it. None, and a warning, where it does not
    compile; None where no compiler is there or NESTLING_NATIVE=0. The result lies in
    ~/.cache/nestling/native (or under XDG_CACHE_HOME) by a hash of sources, flags, compiler and
    processor.
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
            f"{folder.name}/{source} was not compiled, the slower form is used "
            f"({SWITCH}=0 leaves this out): {first}",
            stacklevel=2,
        )
        return None


def _machine() -> bytes:
    """What -march=native depends on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
        return (platform.machine() + (lines[0] if lines else "")).encode()
    except OSError:
        return platform.processor().encode()


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Compile beside the target and move there, so that no half library is ever loaded."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, "-I", str(PACKAGE), str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        os.replace(made, target)
