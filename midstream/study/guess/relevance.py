"""What the output looks at: the expected Fisher information of a lens's reading, in the stream that it reads.

At one position ``B = J^T G^T W^T D (diag p - p p^T) D W G J``: J the lens's map, G the derivative of the final norm
where the map ends, W the unembedding (subtracting its mean row changes nothing here), D that of a soft cap, p what is
read. To second order ``KL(p || p read from h + v) = v^T B v / 2``. Since ``diag p - p p^T`` is the expectation of
``(e_t - p)(e_t - p)^T`` over tokens t drawn from p, B is that of ``g g^T``, g the gradient in h of log p(t): a few
draws a position give it without bias, and no matrix over the vocabulary is made.

Letters for shapes: n positions, d width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midstream.lens.lens import Transport
from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader
from midstream.readout.sums import finish

ROWS = 256
"""Positions whose probabilities are held at once."""


def relevance(reader: Reader, move: Transport | None, h: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """The sum over positions of B, estimated: ``[d, d]`` float64 on the CPU.

    Args:
        reader: the output reader.
        move: the lens's map at this layer; None: the stream is read as it is.
        h: ``[n, d]`` float32.
        draws: tokens drawn at each position.
        generator: on the CPU.
    """
    total = torch.zeros(h.shape[1], h.shape[1], dtype=torch.float64)
    for start in range(0, len(h), ROWS):
        total += _relevance(reader, move, h[start : start + ROWS], draws, generator)
    return total


def _relevance(reader: Reader, move: Transport | None, h: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad(), full_float32():
        x = (h if move is None else move(h)).detach().clone().requires_grad_()
        normed = (x if reader.norm is None else reader.norm(x)) * reader.scale
        pulls = _scores(reader, normed.detach(), draws, generator)
        each = [torch.autograd.grad(normed, x, pull, retain_graph=True)[0] for pull in pulls]
    g = torch.cat(each) if move is None else torch.cat(each) @ move.weight.to(h)
    g = g.double().cpu()
    return g.T @ g / draws


@torch.no_grad()
def _scores(reader: Reader, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Gradients in the prepared vector x ``[n, d]`` of log p of tokens drawn from p: ``[draws, n, d]``."""
    z = finish(product(x, reader.weight), reader, x.new_ones(1), slice(None))
    p = z.softmax(-1)
    drawn = torch.multinomial(p.cpu(), draws, replacement=True, generator=generator).to(x.device)
    rows = reader.weight[drawn]  # [n, draws, d]
    if reader.soft_cap is not None:
        slope = 1 - (z / reader.soft_cap).square()
        p, rows = p * slope, rows * slope.gather(1, drawn)[..., None]
    return (rows - (p @ reader.weight)[:, None]).transpose(0, 1).contiguous()
