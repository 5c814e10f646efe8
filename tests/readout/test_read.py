"""Every way of the read-out against the plain float64 definitions, on shapes that no block size divides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from readout_oracle import ranks_near, truth

from midstream.errors import MissingPackageError, RequestError
from midstream.readout import blocked, fused, reference, screen
from midstream.readout import read as door
from midstream.readout.read import Rows, read, top1
from midstream.readout.reader import Reader

FLOATS = ("lse", "entropy", "kl_final_lens", "kl_lens_final", "kl_base", "logprob", "top_logprobs")
WAYS = {"blocked": blocked.accumulate, "fused": fused.accumulate}


def case(seed, *, vocabulary=3001, width=24, n=5, layers=3, size=1.0, bias=True, cap=None):
    """A random reader and the rows of one lens: layer 0 is its own base, the last layer is the reference."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    reader = Reader(normal(vocabulary, width), normal(vocabulary) if bias else None, cap)
    xs = [size * normal(n, width) for _ in range(layers)]
    tokens = torch.randint(0, vocabulary, (n, 4), generator=generator)
    tokens[0, 0] = -1
    rows = [Rows(x, tokens, None, xs[0]) for x in xs]
    return reader, rows, xs[-1]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Whatever the number of rows, they are read this way."""
    monkeypatch.setattr(door, "_choose", lambda *_: WAYS[request.param])
    return request.param


def near(found, expected, names=FLOATS, atol=2e-4):
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_every_statistic_is_that_of_float64(way, size, bias, cap):
    reader, rows, final = case(1, size=size, bias=bias, cap=cap)
    for found, expected, part in zip(
        read(reader, rows, reference=final), truth(reader, rows, final), rows, strict=True
    ):
        near(found, expected)
        ranks_near(found, reader, part)
        z = reference.logits(reader, part.x)
        chosen = z.gather(1, torch.from_numpy(found.top_ids).long())
        best = z.topk(10).values
        torch.testing.assert_close(chosen, best, atol=1e-3 if cap is None else 1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("vocabulary", "n", "layers"), [(1, 1, 1), (7, 1, 2), (1024, 3, 2), (2049, 1, 1), (5000, 40, 31)]
)
def test_no_shape_is_special(way, vocabulary, n, layers):
    reader, rows, final = case(2, vocabulary=vocabulary, n=n, layers=layers)
    found = read(reader, rows, reference=final, top_k=10)
    expected = truth(reader, rows, final, top_k=min(10, vocabulary))
    for one, other, part in zip(found, expected, rows, strict=True):
        assert one.top_ids.shape == (n, min(10, vocabulary))
        near(one, other)
        ranks_near(one, reader, part)


def test_divergences_point_the_right_way(way):
    reader, rows, final = case(3)
    first, _, last = read(reader, rows, reference=final)
    assert np.abs(last.kl_final_lens).max() < 1e-4
    assert np.abs(last.kl_lens_final).max() < 1e-4
    assert np.abs(first.kl_base).max() < 1e-4
    log_p, log_q = (reference.logits(reader, x).log_softmax(1) for x in (rows[0].x, final))
    np.testing.assert_allclose(first.kl_final_lens, (log_q.exp() * (log_q - log_p)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(first.kl_lens_final, (log_p.exp() * (log_p - log_q)).sum(1), rtol=1e-4)
    assert (np.abs(first.kl_final_lens - first.kl_lens_final) > 0.1).any()


def test_reference_may_be_another_row_or_none(way):
    reader, rows, final = case(4)
    index = torch.tensor([3, -1, 0, 4, -1])
    (found,) = read(reader, [replace(rows[0], reference=index)], reference=final)
    (expected,) = truth(reader, [rows[0]], final[index.clamp(min=0)])
    named = index.numpy() >= 0
    for name in ("kl_final_lens", "kl_lens_final"):
        np.testing.assert_allclose(getattr(found, name)[named], getattr(expected, name)[named], rtol=1e-4, atol=1e-4)
        assert np.isnan(getattr(found, name)[~named]).all()
    (alone,) = read(reader, [replace(rows[0], base=None)], reference=None)
    near(alone, expected, ("lse", "entropy", "logprob"))
    assert np.isnan(alone.kl_final_lens).all()
    assert np.isnan(alone.kl_base).all()


def test_beta_scales_the_bias_of_each_row(way):
    reader, rows, _ = case(5)
    betas = [replace(part, beta=beta, base=None) for part, beta in zip(rows, (0.0, 0.5, 2.0), strict=True)]
    for found, expected in zip(read(reader, betas, reference=None), truth(reader, betas, None), strict=True):
        near(found, expected, ("lse", "entropy", "logprob", "top_logprobs"))


def test_equal_logits_go_by_smaller_id(way):
    weight = torch.ones(2500, 3)
    weight[[2400, 17, 1030]] *= 2
    (found,) = read(Reader(weight), [Rows(torch.ones(1, 3), torch.tensor([[17, 0, 2400]]))], reference=None, top_k=6)
    assert found.top_ids.tolist() == [[17, 1030, 2400, 0, 1, 2]]
    assert found.rank.tolist() == [[1, 4, 1]]
    assert top1(Reader(weight), torch.ones(1, 3)).tolist() == [17]


def test_own_column_never_counts_against_itself(way):
    """A token's logit from its own dot product rounds differently from its column of the block."""
    reader, rows, final = case(6, vocabulary=4000, width=300, n=30, size=20.0, bias=False)
    for x in (part.x for part in rows):
        best = reference.logits(reader, x).argmax(1)
        (found,) = read(reader, [Rows(x, best[:, None])], reference=final)
        assert (found.rank == 1).all()
        assert (top1(reader, x) == best).all()


def test_a_row_that_is_no_number_is_undefined_and_alone(way):
    reader, rows, final = case(7)
    sick = rows[1].x.clone()
    sick[2, 3], sick[4, 0] = torch.nan, torch.inf
    found = read(reader, [rows[0], replace(rows[1], x=sick)], reference=final)
    expected = truth(reader, rows[:2], final)
    near(found[0], expected[0])
    well = np.array([True, True, False, True, False])
    for name in FLOATS:
        assert np.isnan(getattr(found[1], name)[~well]).all(), name
        np.testing.assert_allclose(
            getattr(found[1], name)[well], getattr(expected[1], name)[well], rtol=1e-4, atol=2e-4, err_msg=name
        )
    assert (found[1].rank[~well] == -1).all()
    assert (found[1].top_ids[~well] == -1).all()
    assert top1(reader, sick).tolist()[2] == -1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 40))
@pytest.mark.parametrize("name", WAYS)
def test_properties(name, seed, size):
    reader, rows, final = case(seed, vocabulary=1500, n=3, size=size)
    shift = replace(reader, bias=reader.bias + 5.0)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(seed))
    shuffled = Reader(reader.weight[order], reader.bias[order])
    place = order.argsort()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "_choose", lambda *_: WAYS[name])
        found, moved = read(reader, rows, reference=final)[0], read(shift, rows, reference=final)[0]
        renamed = [replace(part, tokens=torch.where(part.tokens < 0, -1, place[part.tokens])) for part in rows]
        mixed = read(shuffled, renamed, reference=final)[0]
    for kl in (found.kl_final_lens, found.kl_lens_final, found.kl_base):
        assert (kl > -1e-3).all()
    assert (found.entropy > -1e-3).all()
    assert (found.entropy < np.log(1500) + 1e-3).all()
    near(moved, found, ("entropy", "kl_final_lens", "kl_lens_final", "logprob"), atol=2e-3)
    np.testing.assert_allclose(moved.lse, found.lse + 5, rtol=1e-5, atol=1e-4)
    near(mixed, found, ("lse", "entropy", "kl_final_lens", "logprob", "top_logprobs"), atol=2e-3)
    assert (np.diff(found.top_logprobs) <= 0).all()


def test_the_door_refuses_what_does_not_fit():
    reader, rows, final = case(8)
    with pytest.raises(RequestError, match="float32"):
        read(reader, [replace(rows[0], x=rows[0].x.double())], reference=final)
    with pytest.raises(RequestError, match=r"\[n, 24\]"):
        read(reader, [replace(rows[0], x=rows[0].x[:, :5])], reference=final)
    with pytest.raises(RequestError, match="expected -1 to 3000"):
        read(reader, [replace(rows[0], tokens=rows[0].tokens + 3001)], reference=final)
    with pytest.raises(RequestError, match="top_k is 0"):
        read(reader, rows, reference=final, top_k=0)
    with pytest.raises(RequestError, match="exact, fast"):
        read(reader, rows, reference=final, precision="rough")
    with pytest.raises(RequestError, match="equal numbers"):
        read(reader, rows, reference=final[:2])


def test_fast_without_numba_is_refused_by_name_and_exact_is_not(monkeypatch):
    reader, rows, final = case(9)
    monkeypatch.setattr(door, "COMPILED_ROWS", 0)
    compiled = read(reader, rows, reference=final)
    monkeypatch.setattr(door.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match="pip install numba"):
        read(reader, rows, reference=final, precision="fast")
    for plain, other in zip(read(reader, rows, reference=final), compiled, strict=True):
        near(plain, other)


def test_inputs_are_left_as_they_were(way):
    reader, rows, final = case(10)
    before = [part.x.clone() for part in rows]
    read(reader, rows, reference=final)
    assert all(torch.equal(part.x, x) for part, x in zip(rows, before, strict=True))


def test_small_vocabularies_and_caps_are_read_exactly_under_fast():
    reader, _, _ = case(11)
    assert not screen.suits(reader, 10)
    assert screen.suits(Reader(torch.zeros(8192, 128)), 10)
    assert not screen.suits(Reader(torch.zeros(8192, 128), None, 30.0), 10)
