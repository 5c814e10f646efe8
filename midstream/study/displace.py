"""Moves of the stream that can be compared: towards different vectors, by the same angle, at the same length."""

from __future__ import annotations

import torch
from torch import Tensor


def angle(h: Tensor, moved: Tensor) -> Tensor:
    """Between two vectors, ``[..., d]`` each -> ``[...]``, radians from 0 to pi; exact for small ones.

    ``2 atan2(|a - b|, |a + b|)`` of the directions a and b (Kahan): an arc cosine loses angles below 3e-4 in float32.
    """
    a, b = _direction(h), _direction(moved)
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def turned(h: Tensor, v: Tensor, by: Tensor) -> Tensor:
    """``h`` turned towards ``v`` by an angle, its length kept: ``|h| (cos a ĥ + sin a ê)``, ê the part of v across h.

    With the angle of an interpolation towards v that keeps the length this is that interpolation.

    Args:
        h, v: ``[..., d]``; where v lies along h nothing says where to turn, and h stays.
        by: ``[...]`` radians.
    """
    own = _direction(h)
    across = v - (v * own).sum(-1, keepdim=True) * own
    size = across.norm(dim=-1, keepdim=True)
    along = torch.where(size > 1e-6 * v.norm(dim=-1, keepdim=True), across / size.clamp(min=1e-30), 0.0)
    by = torch.where((along == 0).all(-1), 0.0, by)[..., None]
    return h.norm(dim=-1, keepdim=True) * (by.cos() * own + by.sin() * along)


def rotation(width: int, seed: int) -> Tensor:
    """A rotation drawn uniformly, ``[d, d]`` float32: Q of a normal matrix, R's diagonal positive (Stewart 1980)."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    q[:, 0] *= torch.sign(torch.linalg.det(q))  # a rotation, no reflection
    return q.float()


def _direction(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
