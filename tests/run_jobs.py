"""Jobs that worker processes can import: what they do is to answer, to die, or to fail."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from midstream.errors import RequestError

BLOCKED = set(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""Signals that this process did not hear when it read this file, which a worker does before it is one."""


@dataclass(frozen=True)
class Answer:
    """Doubles a number and says which process did it."""

    def begin(self, model):
        return partial(_double, model.name)


def _double(name, item):
    return item, 2 * item, os.getpid(), name


@dataclass(frozen=True)
class Die:
    """Kills its process at an item as long as that has been tried at most ``times``; tries are files in ``folder``."""

    folder: Path
    at: int
    times: int

    def begin(self, model):
        return partial(_die, self)


def _die(job, item):
    tried = len(list(job.folder.iterdir()))
    if item == job.at and tried < job.times:
        (job.folder / str(tried)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@dataclass(frozen=True)
class Fail:
    """Fails at an item on purpose, or by a bug."""

    at: int
    bug: bool = False

    def begin(self, model):
        return partial(_fail, self)


def _fail(job, item):
    if item == job.at:
        raise ZeroDivisionError("a bug") if job.bug else RequestError("not this one.")
    return item


@dataclass(frozen=True)
class Stay:
    """Does not hear that it is to end, and is busy for ever with all items but 0, for which it says what it hears."""

    def begin(self, model):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return _stay


def _stay(item):
    while item:
        time.sleep(1)
    return BLOCKED
