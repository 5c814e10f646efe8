"""The fast precision against float64, on vectors with the outliers that real streams have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from readout_oracle import ranks_near, truth

from midstream.readout import kernel_screen, reference, screen
from midstream.readout import read as door
from midstream.readout.measured import FAST
from midstream.readout.read import Rows, read
from midstream.readout.reader import Reader
from midstream.record import READING


def stream(seed, size, *, vocabulary=9001, width=128, n=24, layers=4, bias=False):
    """Token rows with a common mean and unequal lengths, vectors with a few channels twenty times the rest."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary, width, generator=generator) + torch.randn(width, generator=generator)
    weight *= 0.05 + 0.2 * torch.rand(vocabulary, 1, generator=generator)
    xs = [size * torch.randn(n, width, generator=generator) for _ in range(layers)]
    for x in xs:
        x[:, :3] *= 20
    reader = Reader(weight, torch.randn(vocabulary, generator=generator) if bias else None)
    tokens = torch.randint(0, vocabulary, (n, 4), generator=generator)
    tokens[:, 1] = (xs[-1] @ weight.T).argmax(1)
    tokens[0, 0] = -1
    return reader, [Rows(x, tokens, None, xs[0]) for x in xs], xs[-1]


@pytest.fixture(autouse=True)
def screened(monkeypatch):
    monkeypatch.setattr(door, "COMPILED_ROWS", 0)
    assert door._choose(Reader(torch.zeros(9001, 128)), 1, "fast", 10) is screen.accumulate


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [0.02, 0.3, 2.0, 10.0])
def test_every_promise_is_kept(size, bias):
    reader, rows, final = stream(1, size, bias=bias)
    found = read(reader, rows, reference=final, precision="fast")
    for one, other, part in zip(found, truth(reader, rows, final), rows, strict=True):
        for name in ("lse", "logprob", "top_logprobs", "entropy", "kl_final_lens", "kl_lens_final", "kl_base"):
            error, value = np.abs(getattr(one, name) - getattr(other, name)), np.abs(getattr(other, name))
            assert np.nanmean(error) < 3e-3, name
            if name in ("logprob", "top_logprobs"):
                assert (error[~np.isnan(value)] < 2e-3 * np.maximum(1, value[~np.isnan(value)])).all(), name
        gaps = -np.diff(other.top_logprobs)
        clear = (gaps > 1e-3).all(1)
        assert (one.top_ids[clear] == other.top_ids[clear]).all()
        low = (other.rank <= 32) & (other.rank > 0)
        tokens = torch.from_numpy(np.where(low, part.tokens, -1))
        ranks_near(replace(one, rank=np.where(low, one.rank, -1)), reader, replace(part, tokens=tokens))
        high = other.rank > 32
        assert (np.abs(one.rank[high] / other.rank[high] - 1) < 0.2).all()


def uneven(seed, vocabulary=8200, width=131):
    """Token rows in clusters, of unequal spread by direction, with a common mean; and vectors with loud channels."""
    draw = torch.Generator().manual_seed(seed)
    root = torch.linalg.qr(torch.randn(width, width, generator=draw))[0] * torch.logspace(0, -1, width)
    centres = torch.randn(60, width, generator=draw) @ root.T
    rows = (
        centres[torch.randint(0, 60, (vocabulary,), generator=draw)]
        + torch.randn(vocabulary, width, generator=draw) @ root.T
    )
    weight = 0.3 * (rows + 2 * torch.randn(width, generator=draw))
    weight[7] = 0
    x = torch.randn(40, width, generator=draw) * torch.where(torch.arange(width) < 3, 10.0, 0.5)
    x[5] = 0
    return Reader(weight, torch.randn(vocabulary, generator=draw)), x


def screened_logits(reader, x):
    """``[M, V]`` float64, and the standard deviation that the screen takes each to have."""
    weight = screen.round_weight(reader)
    whole, within, row_of, lengths = screen._screened(x, torch.ones(len(x)), weight)
    products = (whole.long() @ weight.tokens.long().T).int(), (within.long() @ weight.within.long().T).int()
    z = np.empty((len(x), len(reader.weight)), np.float32)
    for i in range(len(x)):
        kernel_screen.logits_of(
            products[0][i].numpy(), products[1][i].numpy(), weight.scales.numpy(), row_of[i].numpy(), z[i]
        )
    return z.astype(np.float64), (lengths.square() @ weight.error.square()).sqrt().double().numpy()


@pytest.mark.parametrize("seed", range(3))
def test_screened_logits_err_by_as_much_as_is_taken(seed):
    reader, x = uneven(seed)
    z, sd = screened_logits(reader, x)
    true = reference.logits(reader, x).numpy()
    some = np.arange(len(x)) != 5
    np.testing.assert_allclose(z[5], true[5], atol=1e-6)
    off = (z - true)[some] / sd[some]
    assert 0.9 < off.std() < 1.1
    assert np.abs(off).max() < screen.SIGMAS


@pytest.mark.parametrize("seed", range(3))
def test_tokens_that_a_vector_favours_are_not_moved_together(seed):
    """Their mean error is no larger than that of as many independent ones would be."""
    reader, x = uneven(seed)
    z, sd = screened_logits(reader, x)
    true = reference.logits(reader, x).numpy()
    p = np.exp(0.2 * (true - true.max(1, keepdims=True)))  # broad, so that many tokens count
    p /= p.sum(1, keepdims=True)
    moved, alone = (p * (z - true)).sum(1), np.sqrt((p**2 * sd**2).sum(1))
    some = alone > 0
    assert np.sqrt(np.mean((moved[some] / alone[some]) ** 2)) < 1.2


def crowd(seed):
    """Three hundred token rows so alike that 8 bits cannot tell them apart, and vectors that put them all first."""
    reader, rows, _ = stream(seed, 0.3)
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(128, generator=generator)
    reader.weight[2000:2300] = 0.2 * one + 2e-3 * torch.randn(300, 128, generator=generator)
    x = rows[0].x[:, torch.randperm(128, generator=generator)] + 2 * one
    return reader, x


def test_tokens_too_alike_to_screen_are_told_apart_by_the_exact_pass():
    reader, x = crowd(6)
    z = reference.logits(reader, x)
    ordered = z.sort(dim=1, descending=True)
    assert (ordered.indices[:, :60] >= 2000).all()
    nothing = torch.full((len(x), 1), -1)
    found = read(reader, [Rows(x, nothing)], reference=None, precision="fast")[0]
    clear = (-np.diff(ordered.values[:, :11].numpy(), axis=1) > 1e-4).all(1)
    assert clear.sum() > 5
    assert (found.top_ids == ordered.indices[:, :10].numpy())[clear].all()


def test_a_low_rank_that_the_head_cannot_settle_is_read_exactly():
    reader, x = crowd(7)
    reader.weight[3000:3012] = 1.02 * reader.weight[2000]  # twelve clear firsts: the list of ten is sure
    ordered = reference.logits(reader, x).sort(dim=1, descending=True)
    tokens = ordered.indices[:, [14, 20, 31]]
    found = read(reader, [Rows(x, tokens)], reference=None, precision="fast", top_k=5)[0]
    ranks_near(found, reader, Rows(x, tokens))


def test_errors_average_out():
    """Noise makes exponentials too large on average, and the best tokens, where it does most, are scored again."""
    reader, rows, final = stream(8, 0.3, vocabulary=16384, n=60)
    pairs = zip(read(reader, rows, reference=final, precision="fast"), truth(reader, rows, final), strict=True)
    off = np.concatenate([one.lse.astype(np.float64) - other.lse for one, other in pairs])
    assert abs(off.mean()) < 3e-5
    assert off.std() < 2e-4


def test_rows_that_are_not_sure_are_read_exactly(monkeypatch):
    reader, rows, final = stream(2, 0.3)
    exact = read(reader, rows, reference=final)
    monkeypatch.setattr(screen, "TOLERANCE", 0.0)  # nothing is sure enough
    for one, other in zip(read(reader, rows, reference=final, precision="fast"), exact, strict=True):
        np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-5)
        assert (one.rank == other.rank).all()


def test_rows_compared_with_nothing_are_read_all_the_same():
    """An input lens has neither reference nor base."""
    reader, rows, final = stream(5, 0.3)
    nothing = torch.full((len(final),), -1)
    alone = [replace(part, base=None) for part in rows]
    for given, output in ((alone, None), ([replace(part, reference=nothing) for part in alone], final)):
        for one, other in zip(
            read(reader, given, reference=output, precision="fast"), truth(reader, rows, final), strict=True
        ):
            np.testing.assert_allclose(one.lse, other.lse, atol=2e-3)
            assert (one.top_ids[:, 0] == other.top_ids[:, 0]).all()
            for name in ("kl_final_lens", "kl_lens_final", "kl_base"):
                assert np.isnan(getattr(one, name)).all()


def test_another_weight_at_the_same_place_is_rounded_again():
    reader, rows, final = stream(3, 0.3)
    read(reader, rows, reference=final, precision="fast")
    reader.weight.mul_(-1.5)
    for one, other in zip(
        read(reader, rows, reference=final, precision="fast"), truth(reader, rows, final), strict=True
    ):
        np.testing.assert_allclose(one.lse, other.lse, atol=2e-3)


def test_a_sick_row_is_undefined_and_alone():
    reader, rows, final = stream(4, 0.3)
    sick = rows[1].x.clone()
    sick[5, 7] = torch.nan
    rows[1] = Rows(sick, rows[1].tokens, None, rows[1].base)
    found = read(reader, rows, reference=final, precision="fast")[1]
    assert np.isnan(found.entropy[5])
    assert found.rank[5].tolist() == [-1] * 4
    assert not np.isnan(np.delete(found.entropy, 5)).any()


def test_measured_errors_keep_the_promises_and_name_columns():
    names = {column.name for column in READING}
    for name, error in FAST.items():
        assert name in names or name.startswith("rank ")
        assert error["mean"] <= error["max"]
        assert error["mean"] < 3e-3
    assert FAST["logprob"]["max"] < 4e-3, "2e-3 relative, and no log-probability that is asked for is far beyond 1"
    assert FAST["rank above 32, relative"]["max"] < 0.2


def test_screened_sums_merge_to_those_of_the_whole():
    generator = np.random.default_rng(0)
    z, r = 5 * generator.normal(size=(2, 3, 40))

    def sums(part):
        largest = z[:, part].max(1)
        e = np.exp(z[:, part] - largest[:, None])
        return np.stack([largest, e.sum(1), (e * z[:, part]).sum(1), (e * r[:, part]).sum(1), (e * e).sum(1)])

    running = np.zeros((5, 3))
    running[0] = -np.inf
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        kernel_screen.merge_screened(running, sums(part))
    np.testing.assert_allclose(running, sums(slice(0, 40)))
