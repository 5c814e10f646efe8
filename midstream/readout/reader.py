"""Readers: what turns a vector of the stream into scores of the vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from midstream.model.anatomy import Anatomy


@dataclass(frozen=True, eq=False)
class Reader:
    """Scores ``z_v = cap(x . weight_v + beta * bias_v)`` of a prepared vector ``x``.

    Attributes:
        weight: ``[V, d]`` float32.
        bias: ``[V]`` float32, already times the logit scale; ``None`` for no bias.
        soft_cap: ``cap(z) = soft_cap * tanh(z / soft_cap)``; ``None`` for no cap.
        norm: the model's final norm in float32; ``None`` where the reader has none.
        scale: factor on the normed vector (the logit scale; the input reader's ``beta``).
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    scale: float = 1.0

    @torch.inference_mode()
    def prepare(self, h: Tensor) -> Tensor:
        """``scale * norm(h)`` in float32: ``[n, d]`` of any float dtype -> ``[n, d]``, a new tensor."""
        x = h.to(torch.float32)
        if self.norm is not None:
            x = self.norm(x)
        return x * self.scale


def output_reader(anatomy: Anatomy) -> Reader:
    """The model's own last steps, in float32 whatever the model's dtype."""
    head: Any = anatomy.unembedding
    weight = _float32(head.weight)
    bias = getattr(head, "bias", None)
    return Reader(
        weight=weight,
        bias=None if bias is None else _float32(bias) * anatomy.logit_scale,
        soft_cap=anatomy.soft_cap,
        norm=None if anatomy.final_norm is None else copy.deepcopy(anatomy.final_norm).float().eval(),
        scale=float(anatomy.logit_scale),
    )


def input_reader(anatomy: Anatomy, beta: float = 1.0) -> Reader:
    """Scores ``beta * (e . E_t - |E_t|^2 / 2)`` of the token rows: the best score is the nearest row.

    The rows to be read with it carry the same ``beta`` (``Rows.beta``), which multiplies the bias.
    """
    rows = anatomy.input_rows()
    return Reader(weight=rows, bias=-0.5 * rows.square().sum(1), scale=float(beta))


def _float32(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float32)
