"""Run functions in separate processes, without the type checks and other changes by tests.

The processes are forks of one that has imported what takes seconds to import, and that computes
nothing itself: autograd does not work in a fork of a process that has used it.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

# only of the library: the tests' folder is not on that process's path
IMPORTED = ["nestling.cli.learn", "nestling.cli.train", "nestling.continual.session"]
IMPORTED += ["nestling.models.pretrained", "nestling.train.sequence", "nestling.train.sharding"]
IMPORTED += ["transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def process(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that will call ``function`` of a module with these arguments."""
    return _context.Process(target=_called, args=(dict(os.environ), function, arguments))


def run_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` of a module in a separate process; errors are raised."""
    with ProcessPoolExecutor(1, _context) as pool:
        return pool.submit(_called, dict(os.environ), function, arguments).result()


def _called(environment: Mapping[str, str], function: Callable[..., Any], arguments: Any) -> Any:
    """Call it in the environment of the test, which may differ from the first one's."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    return function(*arguments)
