"""The seed shift of `make test-anywhere`, and the parts of its suite."""

import random

import anywhere
import pytest
import torch
import variation


def test_shifted_seed_adds_the_offset():
    Generator, Random = variation.generator(5), variation.generator_of_python(5)
    torch.testing.assert_close(
        torch.rand(3, generator=Generator().manual_seed(2)),
        torch.rand(3, generator=torch.Generator().manual_seed(7)),
        rtol=0,
        atol=0,
    )
    assert Random(2).random() == random.Random(7).random()
    assert Random("a").random() == random.Random("a 5").random()
    assert Random("a").random() == Random("a").random() != Random("b").random()


def test_every_test_file_is_in_one_part():
    root = anywhere.ROOT
    parts = [path for paths in anywhere.parts().values() for path in paths]
    files = [path for folder in ("tests", "lab/tests") for path in root.glob(f"{folder}/**/*.py")]
    for file in files:
        if file.name.startswith("test_"):
            assert sum(root / part in (file, *file.parents) for part in parts) == 1, file


def test_compiling_tests_are_detected():
    for name in ("c++", "g++-13", "cc", "x86_64-linux-gnu-gcc-12", "clang++", "clang-17", "nvcc"):
        assert anywhere.COMPILER.fullmatch(name), name
    for name in ("git", "python3", "ccache-swig", "clang-format", "gccgo-tool", "env"):
        assert not anywhere.COMPILER.fullmatch(name), name


def test_variations_can_be_run_at_once():
    both = anywhere.named("seeds-2+no-compiler+loaded")
    assert both.env == anywhere.VARIATIONS["seeds-2"].env and both.loaded and not both.compiler
    assert anywhere.named("oldest").python == anywhere.OLDEST
    with pytest.raises(ValueError, match="in two ways"):
        anywhere.named("aten-default+aten-avx2")
