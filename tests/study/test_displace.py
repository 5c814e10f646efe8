"""Displacements that can be compared: equal angles, equal lengths."""

from __future__ import annotations

import torch

from midstream.stream.change import Interpolate
from midstream.study.displace import angle, rotation, turned

DRAW = torch.Generator().manual_seed(1)
H = torch.randn(3, 5, 24, generator=DRAW, dtype=torch.float64) * torch.rand(3, 5, 1, generator=DRAW) * 9
V = torch.randn(3, 5, 24, generator=DRAW, dtype=torch.float64)


def test_an_interpolation_is_a_turn_by_its_own_angle():
    for alpha in (1e-4, 0.1, 0.7, 1.0):
        moved = Interpolate(V, alpha).apply(H)
        torch.testing.assert_close(turned(H, V, angle(H, moved)), moved)


def test_a_turn_keeps_the_length_and_makes_the_angle_whatever_it_turns_to():
    by = torch.rand(3, 5, generator=DRAW, dtype=torch.float64) * 2
    moved = turned(H, torch.randn(3, 5, 24, generator=DRAW, dtype=torch.float64), by)
    torch.testing.assert_close(moved.norm(dim=-1), H.norm(dim=-1))
    torch.testing.assert_close(angle(H, moved), by)


def test_what_lies_along_the_stream_turns_nothing():
    torch.testing.assert_close(turned(H, 2 * H, torch.ones(3, 5, dtype=torch.float64)), H)


def test_small_angles_are_exact_in_float32():
    h = H.float()
    moved = turned(h, V.float(), torch.full((3, 5), 1e-4))
    torch.testing.assert_close(angle(h, moved), torch.full((3, 5), 1e-4), rtol=1e-2, atol=0)


def test_a_rotation_keeps_products_and_belongs_to_its_seed():
    q = rotation(24, 3)
    torch.testing.assert_close(q @ q.T, torch.eye(24), rtol=0, atol=1e-5)
    assert torch.equal(q, rotation(24, 3))
    assert not torch.equal(q, rotation(24, 4))
    assert float((q.diagonal().mean()).abs()) < 0.3
