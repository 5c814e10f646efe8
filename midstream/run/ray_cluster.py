"""A job on a Ray cluster, on one that is there or on one started on this machine. The only file that imports ray."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from midstream.errors import MidstreamError, MissingPackageError, RequestError
from midstream.run.runner import AHEAD, ATTEMPTS, Item, Job, ModelSource, Result, Work, cores, dead

PATIENCE = 5
"""Seconds that an address may take to answer."""

_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What Ray's servers are asked in (HTTP/2): that it is, and no settings. The answer begins with settings too."""


@dataclass(frozen=True)
class RayCluster:
    """Actors of a cluster, each with the model; one that dies is replaced and what it held is done again.

    Attributes:
        workers: how many actors, each of as many CPUs as it has threads; None: as many as there are CPUs for.
        address: ``host:port``, ``ray://host:port`` or ``auto``; None: ``$RAY_ADDRESS``, else this machine alone.
    """

    source: ModelSource
    workers: int | None = None
    address: str | None = None

    @property
    def where(self) -> str:
        """The address to use."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    @property
    def here(self) -> int:
        """See ``Runner``."""
        return (self.workers or cores()) if self.where == "local" else 0

    def run(self, job: Job, items: Iterable[Item]) -> Generator[Result]:
        """See ``Runner``. Only actors that have begun are given items, since Ray may start some late or never."""
        ray = _ray()
        with _connected(ray, self.where):
            remote, shared = ray.remote(num_cpus=self.source.threads)(_Worker), ray.put(job)
            crew = _Crew(ray, lambda: remote.remote(self.source, shared), map(_Task, items))
            for _ in range(self._room(ray)):
                crew.hire()
            yield from crew.work()

    def _room(self, ray: Any) -> int:
        """How many actors there will be. Ray would wait for ever for CPUs that no node has."""
        have = int(ray.cluster_resources().get("CPU", 0))
        most = have // self.source.threads
        if not 0 < (self.workers or most) <= most:
            raise RequestError(
                f"the cluster has {have} CPUs, too few for {self.workers or 1} workers: give fewer --workers."
            )
        return self.workers or most


class _Worker:
    """An actor: the model and the job, begun."""

    def __init__(self, source: ModelSource, job: Job) -> None:
        self._error: Exception | None = None
        try:
            self._work: Work = job.begin(source.load())
        except Exception as error:  # raised here it would look like a death, and be tried again
            self._error = error

    def ready(self) -> None:
        """Answers once it has begun. Raises what went wrong then."""
        if self._error is not None:
            raise self._error

    def work(self, item: Item) -> Result:
        return self._work(item)


@dataclass
class _Task:
    """An item, how many actors have died at it, and whether it was lost by one: then it is done alone."""

    item: Item
    deaths: int = 0
    suspect: bool = False


@dataclass(frozen=True)
class _Died:
    """In place of a result: the actor is dead, and what Ray says of it."""

    why: str


@dataclass
class _Crew:
    """The actors: those that are starting, those that wait for an item, and what each of the others holds, in order."""

    ray: Any
    start: Callable[[], Any]
    tasks: Iterator[_Task]
    again: deque[_Task] = field(default_factory=deque[_Task])
    starting: dict[Any, tuple[Any, int]] = field(default_factory=dict[Any, tuple[Any, int]])
    idle: list[Any] = field(default_factory=list[Any])
    running: dict[Any, tuple[_Task, Any]] = field(default_factory=dict[Any, tuple[_Task, Any]])
    tasks_ended: bool = False

    def hire(self, deaths: int = 0) -> None:
        """One more actor; ``deaths``: of those in its place that died before they had begun."""
        actor = self.start()
        self.starting[actor.ready.remote()] = actor, deaths

    def work(self) -> Iterator[Result]:
        """The results of all tasks."""
        while True:
            while self._give():
                pass
            if not self.running and not self.again and self.tasks_ended:
                return
            (done,), _ = self.ray.wait([*self.running, *self.starting], num_returns=1)
            if done in self.starting:
                self._begun(done)
            else:
                yield from self._done(done)

    def _give(self) -> bool:
        """The next task to an actor; one that was lost before to an actor that has nothing else, and gets nothing."""
        whole = next((one for one in self.idle if self.idle.count(one) == AHEAD), None)
        if self.again and whole is not None:
            task, actor = self.again.popleft(), whole
            self.idle = [one for one in self.idle if one is not actor]
        elif not self.again and self.idle and (found := next(self.tasks, None)) is not None:
            task, actor = found, self.idle.pop(0)
        else:
            self.tasks_ended = self.tasks_ended or (not self.again and bool(self.idle))
            return False
        self.running[actor.work.remote(task.item)] = task, actor
        return True

    def _begun(self, reference: Any) -> None:
        actor, deaths = self.starting.pop(reference)
        result = self._result(reference, "its start")
        if not isinstance(result, _Died):
            self.idle += [actor] * AHEAD
        elif deaths + 1 < ATTEMPTS:
            self.hire(deaths + 1)
        else:
            raise MidstreamError(f"no worker of the cluster could be started: {result.why}")

    def _done(self, reference: Any) -> Iterator[Result]:
        """What an actor has done; of one that died, all that it had done, and the rest goes to others."""
        task, actor = self.running[reference]
        result = self._result(reference, task.item)
        if not isinstance(result, _Died):
            del self.running[reference]
            self.idle += [actor] * (AHEAD if task.suspect else 1)
            yield result
            return
        self.idle = [one for one in self.idle if one is not actor]
        lost: list[_Task] = []
        for held in [held for held, (_, owner) in self.running.items() if owner is actor]:
            task, _ = self.running.pop(held)
            result = self._result(held, task.item)
            if not isinstance(result, _Died):
                yield result
                continue
            lost.append(task)
            task.suspect = True
            if len(lost) == 1:  # actors do one after the other: it was at this one
                task.deaths += 1
                if task.deaths >= ATTEMPTS:
                    raise MidstreamError(dead(task.item, result.why))
        self.again.extendleft(reversed(lost))
        self.hire()

    def _result(self, reference: Any, item: Item) -> Result:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, MidstreamError):
                raise error.cause from None
            raise MidstreamError(f"a worker failed at {item}: {type(error.cause).__name__}: {error.cause}") from error
        except errors.RayError as error:
            return _Died((str(error).strip().splitlines() or [type(error).__name__])[0][:200])


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # a GPU may be used by an actor that asked for none
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("--runner ray needs ray: pip install 'midstream[ray]'.") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Generator[None]:
    """Ray, reached or started; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    _check_answers(address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    local = {"include_dashboard": False, "num_cpus": cores()} if address == "local" else {}
    try:
        ray.init(address=address, **quiet, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"no Ray cluster could be used at {address}: {said[:200]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray tries for minutes, and prints warnings, where nothing answers or something else does.

    Raises RequestError then, and for what is no address.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise RequestError(f"--address {address!r}: expected host:port, ray://host:port or auto.")
    try:
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            other = not os.environ.get("RAY_USE_TLS") and not _greets(connection)
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"no Ray cluster answers at {address}: {error}. Start one with ray start --head, or leave --address out to "
            "run on this machine."
        ) from error
    if other:
        raise RequestError(
            f"what answers at {address} is no Ray cluster: expected the address that ray start --head has printed."
        )


def _greets(connection: socket.socket) -> bool:
    """Whether the other end speaks as Ray's servers do; one that says nothing in time does not."""
    try:
        connection.sendall(_GREETING)
        said = connection.recv(4)
        while 0 < len(said) < 4 and (more := connection.recv(4 - len(said))):
            said += more
    except OSError:
        return False
    return said[3:] == b"\4"
