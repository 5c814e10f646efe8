"""Where a model runs and in which dtype: what was asked for, checked, or what fits."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from midstream.errors import ModelError, RequestError, choices

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names that ``--dtype`` takes."""

_GROUPS = Path("/sys/fs/cgroup")
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Where a container's limit, use and statistics stand in cgroup v2 and v1, and what these call old page cache."""


def checked_device(name: str) -> torch.device:
    """The device of that name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        RequestError: if there is no such device on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise choices("device", name, ("cpu", "cuda", "cuda:N", "mps")) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise RequestError(f"device {name!r} was asked for, and PyTorch sees {count} CUDA devices here: use cpu.")
        return device
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise RequestError("device 'mps' was asked for, and PyTorch has no Metal device here: use cpu.")
        return device
    raise choices("device", name, ("cpu", "cuda", "cuda:N", "mps"))


def checked_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of that name; None for none. Raises RequestError with the valid names."""
    if name is None:
        return None
    if name not in DTYPES:
        raise choices("dtype", name, DTYPES)
    return DTYPES[name]


def fitting_dtype(elements: int, stored: torch.dtype, device: torch.device) -> tuple[torch.dtype, str | None]:
    """float32, or the stored dtype and a note where float32 would take more than half of the free memory.

    Args:
        elements: number of the model's weights.
    """
    free = free_memory(device)
    if 4 * elements <= free // 2:
        return torch.float32, None
    dtype = torch.bfloat16 if stored in (torch.float32, torch.float64) else stored
    name = str(dtype).removeprefix("torch.")
    if dtype.itemsize * elements > free:
        raise ModelError(
            f"the model needs {dtype.itemsize * elements / 1e9:.1f} GB as {name}, and {free / 1e9:.1f} GB are free "
            f"on {device}: free some, or choose a smaller model."
        )
    return dtype, (
        f"weights are {name}: float32 would take {4 * elements / 1e9:.1f} of {free / 1e9:.1f} GB free on {device}."
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on a device; on the CPU those that the system and its container leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    found = [os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        # what can be had without swapping: more than is free, since the page cache gives way
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or found
    except (OSError, ValueError):
        pass  # not Linux
    return max(0, min([*found, *_left_by_container()]))


def _left_by_container() -> list[int]:
    """Bytes up to the limit of this process's container; nothing where there is none."""
    found: list[int] = []
    for limit, used, statistics, old in _GROUP_FILES:
        with suppress(OSError, ValueError):
            most = int((_GROUPS / limit).read_text(encoding="ascii"))  # "max" where there is no limit
            lines = (_GROUPS / statistics).read_text(encoding="ascii").splitlines()
            # files read before count as used, and give way
            cached = sum(int(line.split()[1]) for line in lines if line.startswith(f"{old} "))
            found.append(most - int((_GROUPS / used).read_text(encoding="ascii")) + cached)
    return found
