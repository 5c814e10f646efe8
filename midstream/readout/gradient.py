"""The divergence of readings from the model's output and its gradient, one block of the vocabulary at a time.

With ``z = x . W + b``, KL(p_ref || p) is the Bregman divergence of the log-sum-exp,
``lse - lse_ref - (x - x_ref) . W^T p_ref``, and its gradient in x is ``W^T p - W^T p_ref``: two products a row and
block, and of the reference nothing but ``W^T p_ref``, which serves every layer. Under a soft cap z is not linear in x,
so there the reference's logits are made again beside those of the rows compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader
from midstream.readout.sums import finish

BLOCK = 2048
"""Tokens in a block."""

ROWS = 1024
"""Rows multiplied at once: a tile of logits is 8 MB."""


@dataclass(frozen=True, eq=False)
class Target:
    """What readings are compared with: the model's output at n positions.

    Attributes:
        x: ``[n, d]`` float32, the output's own prepared vectors.
        lse: ``[n]`` float64 on the CPU, log-sum-exp of its logits.
        mean: ``[n, d]`` float32, ``W^T p``: the mean row of the unembedding under its distribution p; None under a soft
            cap, where it would not serve.
    """

    x: Tensor
    lse: Tensor
    mean: Tensor | None

    def __len__(self) -> int:
        """n."""
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> Target:
        """The target at other rows: some left out, or shifted to those that a future lens reads."""
        return Target(self.x[rows], self.lse[rows], None if self.mean is None else self.mean[rows])


@torch.inference_mode()
def reference(reader: Reader, x: Tensor) -> Target:
    """The target made of the model's output ``x`` ``[n, d]`` float32, as ``Reader.prepare`` makes it."""
    _check(reader, x, len(x))
    sums = _Sums(reader, x[:, None], None, gradient=reader.soft_cap is None)
    sums.add_all(torch.float32)
    return Target(x.clone(), sums.lse()[:, 0], None if sums.mean is None else sums.slope()[:, 0])


@torch.inference_mode()
def kl_and_gradient(
    reader: Reader, x: Tensor, target: Target, *, gradient: bool = True, rough: bool = False
) -> tuple[Tensor, Tensor | None]:
    """KL(target || reading) in nats and its gradient in the prepared vector.

    Args:
        x: ``[..., n, d]`` float32, prepared: any number of layers, each position for position with the target.
        gradient: without it half of the products are saved.
        rough: bfloat16 products where the machine has them, twice as fast here: gradients are a percent off and
            divergences some hundredths of a nat, far less than what the choice of positions does to a step of a fit.

    Returns:
        ``[..., n]`` float32 on the CPU, and ``[..., n, d]`` float32 or None. A row that is not finite gives NaN, and it
        alone.

    Raises:
        RequestError: the shapes do not fit together.
    """
    _check(reader, x, len(target))
    beside = x.reshape(-1, *x.shape[-2:]).transpose(0, 1).contiguous()
    sums = _Sums(reader, beside, target, gradient=gradient)
    sums.add_all(torch.bfloat16 if rough and _multiplies_bfloat16(x.device) else torch.float32)
    kl = sums.divergence().float().T.reshape(x.shape[:-1])
    return kl, sums.slope().transpose(0, 1).reshape(x.shape) if gradient else None


@dataclass(frozen=True, eq=False)
class _Block:
    """Consecutive tokens ``ids`` of the vocabulary: their ``weight`` ``[B, d]``, and that transposed, for products."""

    reader: Reader
    ids: slice
    weight: Tensor
    across: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """``[n, l, d]`` -> ``[n, l, B]`` float32."""
        return finish(_product(x, self.weight), self.reader, x.new_ones(1), self.ids)

    def mean(self, weights: Tensor) -> Tensor:
        """The sum of the rows of the unembedding by ``weights`` ``[n, l, B]``: ``[n, l, d]`` float32."""
        return _product(weights, self.across)


class _Sums:
    """Sums over the vocabulary, for rows ``x`` ``[n, l, d]`` that are compared with the n rows of a target."""

    def __init__(self, reader: Reader, x: Tensor, target: Target | None, *, gradient: bool) -> None:
        self.reader, self.x, self.target = reader, x, target
        self.largest = torch.full(x.shape[:2], -torch.inf, device=x.device)
        self.total = torch.zeros(x.shape[:2], dtype=torch.float64)  # on the CPU: not every device has float64
        self.mean = torch.zeros_like(x) if gradient else None
        # Only under a soft cap: sums of p_ref (z - z_ref), and of p_ref dz/du W with u the score before the cap.
        self.apart = torch.zeros_like(self.total)
        self.pull = torch.zeros_like(x) if gradient and reader.soft_cap is not None else None

    def add_all(self, dtype: torch.dtype) -> None:
        """The whole vocabulary, products in ``dtype``: blocks outside, so that each is transposed once."""
        n, layers = self.x.shape[:2]
        step = max(1, ROWS // max(1, layers))
        with full_float32():
            for start in range(0, len(self.reader.weight), BLOCK):
                ids = slice(start, min(start + BLOCK, len(self.reader.weight)))
                weight = self.reader.weight[ids].to(dtype)
                block = _Block(self.reader, ids, weight, weight.T.contiguous())
                for first in range(0, n, step):
                    self._add(slice(first, first + step), block)

    def _add(self, rows: slice, block: _Block) -> None:
        z = block.logits(self.x[rows])
        largest = torch.maximum(self.largest[rows], z.amax(2))
        old = (self.largest[rows] - largest).exp()
        cap = self.reader.soft_cap
        slope = None if cap is None else self._slope(z, cap, rows, block)
        e = z.sub_(largest[..., None]).exp_()  # in place: fresh memory costs as much as the exponential
        self.largest[rows] = largest
        self.total[rows] = _precise(old) * self.total[rows] + _precise(e.sum(2))
        if slope is not None:
            e *= slope
        if self.mean is not None:
            self.mean[rows] = block.mean(e).addcmul_(self.mean[rows], old[..., None])

    def _slope(self, z: Tensor, cap: float, rows: slice, block: _Block) -> Tensor:
        """dz/du, with what the target's own logits add here to ``apart`` and ``pull``."""
        slope = 1 - (z / cap).square_()
        if self.target is not None:
            r = block.logits(self.target.x[rows, None])
            p = (r - self.target.lse[rows, None, None].to(r)).exp_()
            self.apart[rows] += _precise((p * (z - r)).sum(2))
            if self.pull is not None:
                self.pull[rows] += block.mean(p * slope)
        return slope

    def lse(self) -> Tensor:
        """``[n, l]`` float64 on the CPU."""
        return _precise(self.largest) + self.total.log()

    def divergence(self) -> Tensor:
        """``[n, l]`` float64 on the CPU, nats."""
        assert self.target is not None
        apart = self.apart
        if self.target.mean is not None:
            apart = ((_precise(self.x) - _precise(self.target.x)[:, None]) * _precise(self.target.mean)[:, None]).sum(2)
        return self.lse() - self.target.lse[:, None] - apart

    def slope(self) -> Tensor:
        """``[n, l, d]``: gradient of the divergence; of the log-sum-exp where there is no target."""
        assert self.mean is not None
        slope = self.mean / self.total[..., None].to(self.mean)
        if self.pull is not None:
            return slope - self.pull
        if self.target is None or self.target.mean is None:
            return slope
        return slope - self.target.mean[:, None]


def _precise(values: Tensor) -> Tensor:
    return values.cpu().double()


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` for ``x`` ``[n, l, d]`` float32, in the dtype of ``weight``, as float32."""
    flat = x.flatten(0, 1)
    if weight.dtype == torch.float32:
        return product(flat, weight).unflatten(0, x.shape[:2])
    return (flat.to(weight.dtype) @ weight.T).float().unflatten(0, x.shape[:2])


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are what the machine does fast; emulated ones are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


def _check(reader: Reader, x: Tensor, n: int) -> None:
    width = reader.weight.shape[1]
    if x.ndim < 2 or tuple(x.shape[-2:]) != (n, width) or x.dtype != torch.float32:
        raise RequestError(f"x is {x.dtype} {list(x.shape)}: expected float32 [..., {n}, {width}], n as in the target.")
