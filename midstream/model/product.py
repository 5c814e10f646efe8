"""The float32 matrix product of the read-out: the fastest one that is float32 indeed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LARGEST_ERROR = 2e-6
"""Largest error of a product in units of ``|x| |w|`` that still counts as float32 (bf16: 2e-3, TF32: 3e-4)."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` in float32: ``[n, d]``, ``[B, d]`` -> ``[n, B]``."""
    if x.device.type == "cpu":
        return _cpu_product()(x, weight)
    return x @ weight.T


@contextmanager
def full_float32() -> Generator[None]:
    """Products inside are true float32, even where the process had allowed TF32 or bf16 for speed."""
    # The older set_float32_matmul_precision writes the same two settings, but cannot be read once they were used.
    backends: Any = torch.backends
    settings = (backends.mkldnn.matmul, backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@lru_cache(maxsize=1)
def _cpu_product() -> Callable[[Tensor, Tensor], Tensor]:
    # torch's default, MKL, runs AMD cores at half their AVX-512 speed; oneDNN takes 0.44 times as long there.
    if torch.backends.mkldnn.is_available() and _is_float32(_onednn):
        return _onednn
    return _plain


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(x, weight, None, "none", [], "")


def _is_float32(multiply: Callable[[Tensor, Tensor], Tensor]) -> bool:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 576, generator=generator) for rows in (16, 64))
    try:
        error = multiply(x, weight).double() - x.double() @ weight.double().T
    except (AttributeError, RuntimeError):  # an older torch, or a build without the operator
        return False
    scale = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    return bool((error.abs() / scale).max() < LARGEST_ERROR)
