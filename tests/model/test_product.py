from __future__ import annotations

import pytest
import torch

from midstream.model import product as file
from midstream.model.product import full_float32, product


@pytest.mark.parametrize(("n", "block", "width"), [(1, 1, 1), (7, 33, 576), (130, 1000, 31)])
def test_a_product_is_float32_indeed(n, block, width):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(n, width, generator=generator), torch.randn(block, width, generator=generator)
    exact = x.double() @ weight.double().T
    scale = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    with full_float32():
        assert ((product(x, weight) - exact).abs() / scale).max() < file.LARGEST_ERROR


def test_a_rough_product_is_not_taken_for_float32():
    assert file._is_float32(lambda x, w: x @ w.T)
    assert not file._is_float32(lambda x, w: (x.bfloat16() @ w.bfloat16().T).float())

    def missing(_x, _w):
        raise RuntimeError("no such operator")

    assert not file._is_float32(missing)


@pytest.mark.parametrize("way", ["old", "new"])
def test_float32_is_float32_and_the_process_keeps_its_own_setting(way):
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    try:
        if way == "old":
            torch.set_float32_matmul_precision("medium")
        else:
            matmul.fp32_precision = "bf16"
        with full_float32():
            assert matmul.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
        if way == "old":
            torch.set_float32_matmul_precision("highest")
