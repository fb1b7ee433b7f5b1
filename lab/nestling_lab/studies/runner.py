"""Runs the cells of a study that have no Result yet, in parallel if there are workers."""

import fnmatch
import multiprocessing
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from nestling.core.allocator import keep_freed_memory
from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.report.progress import Progress
from nestling_lab.studies.board import board, finish, teller
from nestling_lab.studies.executors import Call, Executor, first_done
from nestling_lab.studies.shard import Shard
from nestling_lab.studies.store import Store
from nestling_lab.studies.study import Cell, Study

Run = Callable[[Store, list[Cell], str, Progress], None]
_told: Any = None  # in a worker process: the queue to the parent


def run_study(
    store: Store,
    *,
    workers: int = 1,
    cells: str = "*",
    shard: Shard = Shard(),
    device: str = "cpu",
    quiet: bool = False,
    executor: Executor | None = None,
) -> dict[str, Result]:
    """Run the missing cells and return all Results by cell name.

    ``cells`` is a shell pattern of cell names, ``shard`` a share of them: machines can share a
    study, with a common folder or with one each (``Store.take_in``). Every worker is a process with
    one torch thread. An ``executor`` (``nestling_lab.studies.executors``) may be used instead; its
    processes must be able to import the study. A finished cell is written to disk before the next
    one starts, so an interrupted study can be continued.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; give at least 1")
    done = store.finished()
    with board(quiet) as shown:
        shown.note(f"{store.study.name}: {len(done)} cells finished in {store.folder}")
        run = _alone if workers == 1 else _side_by_side(workers)
        run = run if executor is None else _given_to(executor)
        while pending := shard.take(store.study, _choose(store.pending(done), cells)):
            run(store, pending, device, shown)
            done = store.finished()
    return done


def _choose(pending: list[Cell], pattern: str) -> list[Cell]:
    return [cell for cell in pending if fnmatch.fnmatch(cell.name, pattern)]


def _alone(store: Store, pending: list[Cell], device: str, shown: Progress) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in pending:
            if store.matching([cell]):
                continue  # another process has finished it in the meantime
            tell = teller(shown, cell.name)
            _keep(store, cell, store.study.run(cell, tell=tell, device=device), shown)
    finally:
        torch.set_num_threads(threads)


def _keep(store: Store, cell: Cell, result: Result, shown: Progress) -> None:
    store.write(cell, result)
    finish(shown, cell.name, result)


def _side_by_side(workers: int) -> Run:
    def run(store: Store, pending: list[Cell], device: str, shown: Progress) -> None:
        # fork would copy torch's threads in an arbitrary state
        context = multiprocessing.get_context("spawn")
        told = context.Queue()
        listener = threading.Thread(target=_listen, args=(told, shown), daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(told,))
        try:
            _collect(store, pool, _work, pending, device, shown)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            told.put(None)
        pool.shutdown()

    return run


def _given_to(executor: Executor) -> Run:
    def run(store: Store, pending: list[Cell], device: str, shown: Progress) -> None:
        _collect(store, executor, _work_elsewhere, pending, device, shown)

    return run


def _collect(
    store: Store,
    executor: Executor,
    work: Callable[[Study, Cell, str], Result],
    pending: list[Cell],
    device: str,
    shown: Progress,
) -> None:
    waiting: list[tuple[Call, Cell]] = [
        (executor.submit(work, store.study, cell, device), cell) for cell in pending
    ]
    try:
        while waiting:
            for call, cell in first_done(waiting):
                _keep(store, cell, call.result(), shown)
                waiting = [pair for pair in waiting if pair[0] is not call]
    except BaseException:
        for call, _ in waiting:
            call.cancel()
        raise


def _begin(told: Any) -> None:
    global _told
    _told = told
    torch.set_num_threads(1)
    keep_freed_memory()


def _work_elsewhere(study: Study, cell: Cell, device: str) -> Result:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        return study.run(cell, device=device)
    finally:
        torch.set_num_threads(threads)


def _work(study: Study, cell: Cell, device: str) -> Result:
    return study.run(
        cell,
        tell=lambda step, steps, loss: _told.put((cell.name, step, steps, loss)),
        device=device,
    )


def _listen(told: Any, shown: Progress) -> None:
    while True:
        try:
            word = told.get(timeout=60)
        except queue.Empty:
            continue
        if word is None:
            return
        name, step, steps, loss = word
        teller(shown, name)(step, steps, loss)
