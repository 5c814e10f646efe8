"""Who does the work: this process, several processes of this machine, or a Ray cluster (``ray_cluster.py``).

A job is the same for all of them, and so are its results; only their order may differ.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, NoReturn, Protocol

import torch

from midstream.errors import MidstreamError, RequestError
from midstream.interrupt import undisturbed
from midstream.model.load import load
from midstream.model.model import Model

ATTEMPTS = 3
"""How often an item is given to a worker before its death is taken to be the item's fault."""

AHEAD = 2
"""Items that wait for each worker, so that none is idle; more would hold more text in memory."""

GRACE = 5.0
"""Seconds that workers which are no longer wanted have to end, before they are killed."""

Item = Any
Result = Any
Work = Callable[[Item], Result]


class Job(Protocol):
    """Work to be done on items, the same wherever it is done; it must survive a pickle to be sent to a worker."""

    def begin(self, model: Model) -> Work:
        """What is called with each item, made once a worker."""
        ...


class Runner(Protocol):
    """Does a job."""

    @property
    def here(self) -> int:
        """How many of its workers share this machine's memory and disks; 0: they are elsewhere."""
        ...

    def run(self, job: Job, items: Iterable[Item]) -> Generator[Result]:
        """One result an item, in any order; items are taken no faster than they are worked on.

        Raises MidstreamError as the job does, and where an item's worker died ``ATTEMPTS`` times.
        """
        ...


@dataclass(frozen=True)
class ModelSource:
    """How a worker gets the model: what to load, and the identity it must then have.

    Attributes:
        threads: of a worker's own arithmetic.
    """

    name: str
    engine: str
    device: str
    dtype: str
    identity: str
    threads: int

    @classmethod
    def of(cls, model: Model, threads: int) -> ModelSource:
        """That of a loaded model. Raises RequestError for one made of live objects, which no other process can load."""
        if not model.source:
            raise RequestError(
                "workers load the model by name, and this one was made from live objects: save it to a folder and load "
                "that, or run serially."
            )
        dtype = str(model.dtype).removeprefix("torch.")
        identity = model.fingerprint.identity
        return cls(model.source, model.engine, str(model.device), dtype, identity, threads)

    def load(self) -> Model:
        """The model, in this process. Raises RequestError where the name gives another one here."""
        torch.set_num_threads(self.threads)
        model = load(self.name, engine=self.engine, device=self.device, dtype=self.dtype)
        if model.fingerprint.identity != self.identity:
            raise RequestError(
                f"a worker's model {self.name!r} is {model.fingerprint.identity[:16]} and the one asked for is "
                f"{self.identity[:16]}: give the workers the same files."
            )
        return model


@dataclass(frozen=True)
class Serial:
    """Everything in this process."""

    model: Model
    here: int = 1

    def run(self, job: Job, items: Iterable[Item]) -> Generator[Result]:
        """See ``Runner``."""
        yield from map(job.begin(self.model), items)


@dataclass(frozen=True)
class Pool:
    """Processes of this machine, each with its own copy of the model (weights of a file are shared by the system)."""

    source: ModelSource
    workers: int

    @property
    def here(self) -> int:
        """See ``Runner``."""
        return self.workers

    def run(self, job: Job, items: Iterable[Item]) -> Generator[Result]:
        """See ``Runner``. A dead worker takes the whole pool with it; each item that was lost is then done alone."""
        waiting = iter(items)
        while True:
            with _processes(self.source, job, self.workers) as pool:
                lost = yield from _spread(pool, waiting, AHEAD * self.workers)
            if not lost:
                return
            for item in lost:
                yield self._alone(job, item)

    def _alone(self, job: Job, item: Item) -> Result:
        for _ in range(ATTEMPTS - 1):
            with _processes(self.source, job, 1) as pool, suppress(BrokenProcessPool):
                return _submit(pool, item).result()
        raise MidstreamError(dead(item))


def _spread(pool: ProcessPoolExecutor, items: Iterator[Item], most: int) -> Generator[Result, None, list[Item]]:
    """Results until the items end or the pool breaks; returns the items that were lost then."""
    running: dict[Future[Result], Item] = {}
    lost: list[Item] = []
    while not lost:
        item = next(items, None) if len(running) < most else None
        if item is not None:
            try:
                running[_submit(pool, item)] = item
            except BrokenProcessPool:
                lost.append(item)
            continue
        if not running:
            return []
        yield from _finished(running, lost)
    while running:
        yield from _finished(running, lost)
    return lost


def _finished(running: dict[Future[Result], Item], lost: list[Item]) -> Iterator[Result]:
    """The results that are there next; items whose pool broke go to ``lost``."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        item = running.pop(future)
        try:
            yield future.result()
        except BrokenProcessPool:
            lost.append(item)


def dead(item: Item, why: str = "") -> str:
    """What is said of an item whose workers die."""
    return (
        f"the worker died {ATTEMPTS} times at {item}{f' ({why})' if why else ''}: it may be short of memory. Give it "
        "fewer workers, or leave that text out; everything done until now is kept."
    )


def cores() -> int:
    """Of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _processes(source: ModelSource, job: Job, workers: int) -> Generator[ProcessPoolExecutor]:
    """A pool of fresh processes; on the way out nothing is waited for that an error or Ctrl-C has made useless."""
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(source, job))
    try:
        yield pool
        pool.shutdown(cancel_futures=True)
    except BaseException:
        with undisturbed():  # a worker left alive would be waited for at the end of this process, for ever
            _end(set(active_children()) - others)
            results = getattr(pool, "_result_queue", None)
            if results is not None:  # else the rest of what a worker was saying is waited for, as if from this process
                results._writer.close()
            pool.shutdown(cancel_futures=True)
        raise


def _end(children: Iterable[BaseProcess]) -> None:
    """Ends processes, whatever they are at."""
    children = list(children)
    for child in children:
        child.terminate()
    until = monotonic() + GRACE
    for child in children:
        child.join(max(0, until - monotonic()))
    for child in children:
        child.kill()
        child.join(GRACE)


def _submit(pool: ProcessPoolExecutor, item: Item) -> Future[Result]:
    """Gives an item to a pool, which may start a process to do it: one that never hears Ctrl-C.

    Ctrl-C goes to the whole group, and this process says what happens. A process that begins to hear of it ends with a
    traceback, and one that is half started when this process does is lost sight of.
    """
    with undisturbed():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits what is blocked
        try:
            return pool.submit(_call, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_work: list[Work] = []
"""In a worker: its job, begun."""


def _begin(source: ModelSource, job: Job) -> None:
    """Makes a worker of a new process. What goes wrong is said by its first item: here it would only look dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see _submit; what is blocked might be let through by a library
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work[:] = [job.begin(source.load())]
    except Exception as error:
        _work[:] = [partial(_failed, error)]


def _end_with_parent() -> None:
    """A killed parent leaves its workers waiting for ever otherwise."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _failed(error: Exception, _item: Item) -> NoReturn:
    raise error


def _call(item: Item) -> Result:
    return _work[0](item)
