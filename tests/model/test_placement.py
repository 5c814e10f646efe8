"""Device and dtype: what was asked for or a sentence; float32 unless it does not fit."""

from __future__ import annotations

import pytest
import torch

from midstream.errors import ModelError, RequestError
from midstream.model import placement
from midstream.model.placement import checked_device, checked_dtype, fitting_dtype, free_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", "", "cpu:x", "xpu"])
def test_devices_that_are_not_here_are_refused(name):
    with pytest.raises(RequestError, match="device"):
        checked_device(name)


def test_the_cpu_is_always_there():
    assert checked_device("cpu") == CPU


def test_dtypes():
    assert checked_dtype(None) is None
    assert checked_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(RequestError, match="float32, bfloat16, float16"):
        checked_dtype("int8")


@pytest.mark.parametrize(
    ("free", "stored", "expected"),
    [
        (801, torch.bfloat16, torch.float32),
        (799, torch.bfloat16, torch.bfloat16),
        (799, torch.float16, torch.float16),
        (799, torch.float32, torch.bfloat16),
    ],
)
def test_float32_takes_at_most_half_of_what_is_free(monkeypatch, free, stored, expected):
    monkeypatch.setattr(placement, "free_memory", lambda device: free)
    dtype, note = fitting_dtype(100, stored, CPU)
    assert dtype is expected
    assert (note is None) == (expected is torch.float32)


def test_what_does_not_fit_at_all_is_refused(monkeypatch):
    monkeypatch.setattr(placement, "free_memory", lambda device: 199)
    with pytest.raises(ModelError, match="GB are free"):
        fitting_dtype(100, torch.bfloat16, CPU)


@pytest.mark.parametrize(
    ("folder", "limit", "used", "old"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_files_read_before_do_not_count_as_used(tmp_path, monkeypatch, folder, limit, used, old):
    monkeypatch.setattr(placement, "_GROUPS", tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    for name, text in ((limit, "1000\n"), (used, "900\n"), ("memory.stat", f"anon 3\n{old} 700\n{old}_x 9\n")):
        (tmp_path / folder / name).write_text(text)
    assert free_memory(CPU) == 800
    (tmp_path / folder / limit).write_text("max\n")
    assert free_memory(CPU) > 1 << 26


def test_free_memory_is_a_plausible_number():
    assert 1 << 26 < free_memory(CPU) < 1 << 50
