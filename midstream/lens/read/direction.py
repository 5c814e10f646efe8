"""Directions of a lens: where the stream must move for a token's score, as the lens reads it, to rise fastest."""

from __future__ import annotations

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.lens import Lens
from midstream.readout.reader import Reader


def direction(reader: Reader, lens: Lens, layer: int, h: Tensor, tokens: Tensor) -> Tensor:
    """``dz_t / dh`` through transport, norm and row t of the reader: ``[n, d]`` float32, one row each.

    Soft cap and scale are left out: the one is increasing and the other a factor, and neither turns the gradient.

    Args:
        h: ``[n, d]``, the stream of ``layer`` where the direction is taken; a norm makes it depend on where.
        tokens: ``[n]`` int64.

    Raises:
        RequestError: for a lens that does not read the stream of that layer.
    """
    if lens.source != "stream" or not lens.reads(layer, lens.site or "resid_post"):
        raise RequestError(f"lens {lens.name!r} reads no stream at layer {layer}: it has no direction there.")
    with torch.inference_mode(False), torch.enable_grad():
        at = h.detach().float().clone().requires_grad_()
        x = lens.transport(layer, at)
        x = x if reader.norm is None else reader.norm(x)
        (towards,) = torch.autograd.grad((x * reader.weight[tokens.to(x.device)].clone()).sum(), at)
    return towards
