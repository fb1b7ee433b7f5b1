"""C++ sources compile for every processor that the compiler supports."""

import shutil
import subprocess

import pytest

from nestling.core import native

SOURCES = sorted(native.PACKAGE.rglob("*.cpp"))
COMPILER = next((path for name in native.COMPILERS if (path := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@needs_compiler
@pytest.mark.skipif(not native.allowed(), reason="compiled forms are switched off")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_source_compiles_here(source):
    """If one does not compile, the torch form replaces it and other tests are skipped."""
    assert native.library(source.parent, source.name) is not None


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_source_compiles_for_other_processors(source, machine):
    """With registers of 16, 32 and 64 bytes (core/native.h); asserts in the sources are checked."""
    flags = [f"-march={machine}" if flag == "-march=native" else flag for flag in native.FLAGS]
    command = [COMPILER, *flags, "-O1", "-I", str(native.PACKAGE), str(source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "bad value" in done.stderr or done.returncode == 0, done.stderr[:500]
