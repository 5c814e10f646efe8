"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from midstream.model import memory

FRAGMENTED = """
import ctypes
from pathlib import Path

import torch

from midstream.model.memory import give_back


def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)


ctypes.CDLL(None).mallopt(-3, 2**25)  # as glibc itself does after some large tensors: they come from its heap
kept = [torch.ones(2**18) for _ in range(400)]
between = kept[1::2]
del kept[1::2]
before = resident()
del between
freed = resident()
give_back()
print(before, freed, resident())
"""


@pytest.mark.skipif(memory._trim() is None or sys.platform != "linux", reason="needs glibc")
def test_what_lies_between_tensors_in_use_is_given_back():
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    before, freed, after = (int(word) for word in done.stdout.split())
    assert freed > before - 50_000  # kB: glibc keeps most of the 200 MB
    assert after < before - 150_000


def test_without_glibc_nothing_happens(monkeypatch):
    def none(_):
        raise OSError

    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", none)
    memory.give_back()
    memory._trim.cache_clear()
