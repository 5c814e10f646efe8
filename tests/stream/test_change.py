"""Kinds of change: each does to the stream what its formula says; nothing asked, nothing changed; NaN never gets in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.stream.change import Add, Interpolate, ProjectOut, Replace, Scale, SetCoordinates

B, M, D = 2, 5, 24


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


H = draw(B, M, D, seed=9) * torch.tensor([0.1, 1.0, 10.0, 100.0, 1000.0])[:, None]


def angle(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@pytest.mark.parametrize(
    "what",
    [
        Add(torch.zeros(D)),
        Add(draw(D), 0.0),
        Add(draw(D), 0.0, relative=True),
        Add(torch.zeros(D), 0.3, relative=True),
        Interpolate(draw(D), 0.0),
        Interpolate(draw(D), torch.zeros(B, M), keep_norm=False),
        ProjectOut(torch.zeros(0, D)),
        ProjectOut(torch.zeros(2, D)),
        Scale(1.0),
        Replace(H),
    ],
    ids=lambda what: type(what).__name__,
)
def test_what_asks_for_nothing_changes_no_bit(what):
    assert torch.equal(what.apply(H), H)


def test_add_goes_by_the_vector_or_by_a_share_of_the_length():
    v = draw(D)
    torch.testing.assert_close(Add(v, -2.5).apply(H), H - 2.5 * v)
    moved = Add(v, -0.1, relative=True).apply(H) - H
    torch.testing.assert_close(moved.norm(dim=-1), 0.1 * H.norm(dim=-1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(angle(moved, v.expand_as(moved)), torch.full((B, M), -1.0), rtol=0, atol=1e-3)


@given(alpha=st.floats(0.01, 1.0), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_interpolation_keeps_the_norm_and_lies_between(alpha, seed):
    v = draw(D, seed=seed) * 7
    mixed = Interpolate(v, alpha).apply(H)
    torch.testing.assert_close(mixed.norm(dim=-1), H.norm(dim=-1), rtol=1e-4, atol=0)
    assert (angle(mixed, v.expand_as(H)) >= angle(H, v.expand_as(H)) - 1e-5).all()
    n = H.norm(dim=-1, keepdim=True)
    free = Interpolate(v, alpha, keep_norm=False).apply(H)
    torch.testing.assert_close(free, (1 - alpha) * H + alpha * v / v.norm() * n, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed, free / free.norm(dim=-1, keepdim=True) * n, rtol=1e-4, atol=1e-4)


def test_vectors_of_any_length_and_dtype_have_a_direction():
    v = draw(D)
    for long in (v * 1e25, v * 1e-25, v.double() * 1e200, (v * 8).bfloat16().float() / 8):
        moved = Add(long, 0.5, relative=True).apply(H) - H
        torch.testing.assert_close(moved.norm(dim=-1), 0.5 * H.norm(dim=-1), rtol=1e-3, atol=1e-5)
    whole = torch.arange(1, D + 1)
    assert torch.equal(Replace(whole).apply(H)[0, 0], whole.float())


def test_strength_one_is_the_vector_at_the_length_of_the_stream():
    v = draw(D)
    torch.testing.assert_close(Interpolate(v, 1.0).apply(H), v / v.norm() * H.norm(dim=-1, keepdim=True))


def test_each_place_may_have_a_strength_of_its_own():
    alpha = torch.zeros(B, M)
    alpha[1, 2] = 0.5
    got = Interpolate(draw(D), alpha).apply(H)
    changed = (got != H).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]
    torch.testing.assert_close(got[1, 2], Interpolate(draw(D), 0.5).apply(H)[1, 2])


@given(k=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_what_is_projected_out_is_gone_and_the_rest_stays(k, seed):
    basis = draw(k, D, seed=seed)
    what = ProjectOut(torch.cat([basis, basis.sum(0, keepdim=True)]))  # rows that depend on each other
    got = what.apply(H)
    assert (got @ basis.T / H.norm(dim=-1, keepdim=True)).abs().max() < 1e-4
    torch.testing.assert_close(what.apply(got), got, rtol=1e-3, atol=1e-3)
    removed = H - got
    across = torch.linalg.lstsq(basis.T, removed.reshape(-1, D).T).solution
    torch.testing.assert_close((basis.T @ across).T.reshape_as(removed), removed, rtol=1e-3, atol=1e-2)


def test_coordinates_are_set_and_nothing_across_them_moves():
    basis, values = draw(2, D), draw(B, M, 2, seed=3) * H.norm(dim=-1, keepdim=True)
    got = SetCoordinates(basis, values).apply(H)
    torch.testing.assert_close(got @ basis.T, values, rtol=1e-3, atol=1e-2)
    away = ProjectOut(basis)
    torch.testing.assert_close(away.apply(got), away.apply(H), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    "what",
    [Add(draw(1, M, D)), Replace(draw(B, M, D)), Interpolate(draw(B, M, D), draw(B, M).sigmoid()),
     SetCoordinates(draw(2, D), draw(1, M, 2)), ProjectOut(draw(2, D)), Scale(3.0)],
    ids=lambda what: type(what).__name__,
)  # fmt: skip
def test_a_part_of_the_positions_is_changed_as_in_the_whole(what):
    kept = [1, 4]
    torch.testing.assert_close(what.part(kept).apply(H[:, kept]), what.apply(H)[:, kept])


NAN = torch.tensor([float("nan")] * D)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Add(NAN), "NaN"),
        (lambda: Add(draw(D), float("inf")), "finite"),
        (lambda: Replace(NAN / 0), "NaN"),
        (lambda: Interpolate(NAN, 0.1), "NaN"),
        (lambda: Interpolate(draw(D), 1.5), "0 .no change. to 1"),
        (lambda: Interpolate(draw(D), float("nan")), "strength is nan"),
        (lambda: Interpolate(torch.zeros(D), 0.5), "no direction"),
        (lambda: ProjectOut(draw(D)), r"\[k, d\]"),
        (lambda: ProjectOut(NAN[None]), "finite"),
        (lambda: SetCoordinates(draw(2, D), draw(3)), "3 values are to be set along 2"),
        (lambda: SetCoordinates(draw(1, D).expand(2, -1), draw(2)), "depend on each other"),
        (lambda: Scale(float("nan")), "NaN"),
        (lambda: Add(torch.zeros(0)), "nothing at all"),
        (lambda: Replace(draw(B, D)), r"shape \[2, 24\] and dtype torch.float32: expected real numbers"),
        (lambda: Replace(torch.tensor(3.0)), r"shape \[\]"),
        (lambda: Add(draw(D) * 1j), "complex"),
        (lambda: Add([1.0]), "given as list: expected a torch tensor"),
        (lambda: Add(draw(D), None), "scale was given as NoneType"),
        (lambda: Scale("2"), "factor is '2'"),
        (lambda: Interpolate(draw(D), None), "strength was given as NoneType"),
        (lambda: Interpolate(draw(D), torch.ones(3)), r"strengths have shape \[3\]"),
        (lambda: SetCoordinates(draw(2, D), draw(M, 2)), r"shape \[5, 2\]"),
    ],
)
def test_what_cannot_be_applied_is_refused_when_it_is_made(make, words):
    with pytest.raises(RequestError, match=words):
        make()


@pytest.mark.parametrize(
    "what",
    [Add(draw(D + 1)), Replace(draw(B, 2, D)), Interpolate(draw(3, M, D), 0.1), ProjectOut(draw(2, D - 1))],
    ids=lambda what: type(what).__name__,
)
def test_a_shape_that_does_not_fit_is_named(what):
    with pytest.raises(RequestError, match=r"has shape \[.*expected"):
        what.apply(H)
