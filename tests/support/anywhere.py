"""The suite under other conditions: seeds, processors, threads, releases, no compiler.

    python tests/support/anywhere.py                 # everything that is not done yet; hours
    python tests/support/anywhere.py seeds-1 loaded  # these variations
    python tests/support/anywhere.py seeds-1+no-native  # both at once
    python tests/support/anywhere.py --list

The suite is run in parts; a part that has passed with this source is not run again, so that it can
be stopped at any time and gone on with. What each part said lies in .anywhere/. Every variation has
caches of its own: none reads what another has compiled.
"""

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import variation

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".anywhere"
OLDEST = ROOT / ".venv-oldest" / "bin" / "python"
COMPILER = re.compile(r"(\w+-)*((c|g|clang)\+\+|gcc|cc|clang|cpp|c[89]9|nvcc)(-[\d.]+)?")
HANGING = 6 * 3600  # seconds; generous for a loaded machine


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One way to run the suite."""

    about: str
    env: dict[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)
    loaded: bool = False  # busy processes beside it, two per processor
    compiler: bool = True


def seeds(by: int) -> Variation:
    """Every seed shifted."""
    return Variation(about=f"every seed {by} further on", env={variation.SEED: str(by)})


VARIATIONS = {
    "plain": Variation(about="as `make test`, one thread"),
    "seeds-1": seeds(1000),
    "seeds-2": seeds(2000),
    "aten-default": Variation(
        about="kernels of torch without vector instructions of the processor",
        env={"ATEN_CPU_CAPABILITY": "default"},
    ),
    "aten-avx2": Variation(about="those for AVX2", env={"ATEN_CPU_CAPABILITY": "avx2"}),
    "onednn-avx2": Variation(
        about="products in bfloat16 as without AVX-512", env={"ONEDNN_MAX_CPU_ISA": "AVX2"}
    ),
    "oldest-cpu": Variation(
        about="all products and sums as of a processor with SSE alone",
        env={
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
        },
    ),
    "no-native": Variation(about="no compiled forms of ours", env={"NESTLING_NATIVE": "0"}),
    "no-compiler": Variation(about="no C++ compiler on the PATH", compiler=False),
    "threads-4": Variation(
        about="four threads of torch",
        env={variation.THREADS: "4", "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"},
    ),
    "loaded": Variation(about="beside busy processes, two for each processor", loaded=True),
    "oldest": Variation(about="the oldest allowed releases (.venv-oldest)", python=OLDEST),
}


def named(name: str) -> Variation:
    """The variation of that name, or several at once with ``+`` between; KeyError for another."""
    several = [VARIATIONS[one] for one in name.split("+")]
    settings = [pair for how in several for pair in how.env.items()]
    if len(dict(settings)) < len(set(settings)):
        raise ValueError(f"{name}: they set one thing in two ways")
    plain = Path(sys.executable)
    return Variation(
        about="; ".join(how.about for how in several),
        env=dict(settings),
        python=next((how.python for how in several if how.python != plain), plain),
        loaded=any(how.loaded for how in several),
        compiler=all(how.compiler for how in several),
    )


class Counts(NamedTuple):
    """The outcome of a part of the suite."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: tuple[str, ...]  # names of tests


def parts() -> dict[str, list[str]]:
    """The suite in parts, by name; paths from the root."""
    found = {"doctests": ["nestling", "lab/nestling_lab"]}
    for folder in ("tests", "lab/tests"):
        entries = sorted((ROOT / folder).iterdir())
        found[folder] = [f"{folder}/{e.name}" for e in entries if e.match("test_*.py")]
        for entry in entries:
            if entry.is_dir() and any(entry.glob("**/test_*.py")):
                found[f"{folder}/{entry.name}"] = [f"{folder}/{entry.name}"]
    return found


def source() -> str:
    """A digest of all tested files, committed or not."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", "*.py", "*.h", "*.cpp", "*.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(filter(None, names)):
        if (ROOT / name).is_file():
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:12]


def run(name: str, part: str, file: Path, through: list[str], workers: int) -> None:
    """Run one part; pytest's output goes to ``file`` with .log, its counts to .xml."""
    how, paths = named(name), parts()[part]
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    command = [
        *through, str(how.python), "-m", "pytest", "-q", "-n", str(workers), "--dist", "worksteal",
        "-p", "no:cacheprovider", "--timeout", str(HANGING), f"--junitxml={draft}",
        *([f"--hypothesis-seed={how.env[variation.SEED]}"] if variation.SEED in how.env else []),
        *paths,
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        env = environment(how, OUT / name / "cache")
        if not how.compiler:
            env["PATH"] = stack.enter_context(path_without_compilers())
        if how.loaded:
            stack.enter_context(busy(2 * (os.cpu_count() or 1)))
        log = stack.enter_context(file.with_suffix(".log").open("w"))
        shown = " ".join(f"{k}={v}" for k, v in how.env.items())
        print(f"{shown} {shlex.join(command)}".strip(), file=log, flush=True)
        subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    if draft.exists():
        draft.replace(file.with_suffix(".xml"))


def environment(how: Variation, cache: Path) -> dict[str, str]:
    """The environment of a variation: one thread, separate caches, this checkout."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    caches = {"XDG_CACHE_HOME": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    checkout = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lab")])}
    return {**os.environ, **one, **caches, **checkout, **how.env}


@contextlib.contextmanager
def path_without_compilers() -> Iterator[str]:
    """A folder with links to every program on the PATH except C++ compilers."""
    with tempfile.TemporaryDirectory() as folder:
        for place in os.environ["PATH"].split(os.pathsep):
            for program in sorted(Path(place).glob("*")):
                link = Path(folder) / program.name
                if not COMPILER.fullmatch(program.name) and not link.is_symlink():
                    link.symlink_to(program)
        assert shutil.which("c++", path=folder) is None
        yield folder


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that keep the CPU busy."""
    command = [sys.executable, "-c", "while True: pass"]
    children = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def counts(file: Path) -> Counts | None:
    """The counts of a part; None if it did not finish."""
    if not file.exists():
        return None
    (suite,) = ElementTree.parse(file).getroot().iter("testsuite")
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failures = tuple(
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    )
    seconds = float(suite.get("time", 0))
    return Counts(total - skipped - len(failures), len(failures), skipped, seconds, failures)


def table(found: dict[str, list[Counts | None]]) -> str:
    """A line for each variation, and the tests that failed."""
    wide = max(14, *(len(name) + 2 for name in found))
    lines = [
        f"{'variation':<{wide}}{'passed':>8}{'failed':>8}{'skipped':>9}{'parts':>9}{'minutes':>9}"
    ]
    for name, each in found.items():
        done = [one for one in each if one is not None]
        sums = [sum(one[i] for one in done) for i in range(3)]
        minutes = sum(one.seconds for one in done) / 60
        lines.append(
            f"{name:<{wide}}{sums[0]:>8}{sums[1]:>8}{sums[2]:>9}"
            f"{f'{len(done)}/{len(each)}':>9}{minutes:>9.1f}"
        )
    lines += [f"{name}: {t}" for name, each in found.items() for c in each if c for t in c.failures]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the requested variations; returns 0 if every part passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variations; all where none is named")
    parser.add_argument("--parts", nargs="*", help="parts of the suite; all where none is named")
    parser.add_argument("--workers", type=int, default=1, help="processes; 0: none beside")
    parser.add_argument("--through", default="", help="a command to run every part by, as `nice`")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    given = parser.parse_args(arguments)
    if unknown := {one for name in given.names for one in name.split("+")} - set(VARIATIONS):
        parser.error(f"no variation {', '.join(unknown)}; there are {', '.join(VARIATIONS)}")
    if given.list:
        print("\n".join(f"{name:<14}{how.about}" for name, how in VARIATIONS.items()))
        print("parts:", ", ".join(parts()))
        return 0
    now, found = source(), {}
    for name in given.names or VARIATIONS:
        found[name] = []
        if not named(name).python.exists():
            print(f"{name}: no {named(name).python}; `make test-anywhere` makes it")
            found[name].append(None)
            continue
        for part in given.parts or parts():
            file = OUT / name / f"{part.replace('/', '-')}-{now}.xml"
            before = counts(file)
            if before is None or before.failed:
                begin = time.monotonic()
                run(name, part, file, shlex.split(given.through), given.workers)
                took = time.monotonic() - begin
                print(f"{name} {part}: {told(counts(file))}, {took:.0f} s", flush=True)
            found[name].append(counts(file))
    print(table(found))
    return 0 if all(one and not one.failed for each in found.values() for one in each) else 1


def told(one: Counts | None) -> str:
    """As text."""
    if one is None:
        return "did not come to its end (see its .log)"
    return f"{one.passed} passed, {one.failed} failed, {one.skipped} skipped"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
