"""interval.py: coverage by simulation, closed forms, and what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from midstream import interval
from midstream.interval import jackknife, paired_ratio, ratio
from midstream.record import Estimate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clustered(draw: np.random.Generator, groups: int, spread: float) -> tuple[Any, Any, Any]:
    """Two documents a cluster, log-normal sizes, true mean 0; the cluster moves its documents together."""
    counts = np.ceil(100 * np.exp(draw.normal(0, spread, (groups, 1))) * draw.uniform(0.5, 1.5, (groups, 2)))
    means = draw.normal(0, 1, (groups, 1)) + draw.normal(0, 1, (groups, 2)) * 3 / np.sqrt(counts)
    return (means * counts).ravel(), counts.ravel(), np.repeat(np.arange(groups), 2)


def coverage(groups: int, spread: float, runs: int) -> float:
    draw, hits = rng(groups), 0
    for _ in range(runs):
        sums, counts, clusters = clustered(draw, groups, spread)
        found = ratio(sums, counts, clusters=clusters, generator=draw, unit="nats")
        hits += found.low <= 0 <= found.high
    return hits / runs


@pytest.mark.parametrize(("groups", "spread"), [(12, 0.3), (30, 0.7)])
def test_t_interval_covers(groups: int, spread: float) -> None:
    # 2,500 runs: one standard error is 0.44 points, so the band is four and a half of them
    assert 0.93 <= coverage(groups, spread, 2500) <= 0.97


@pytest.mark.parametrize("groups", [6, 8, 11])
def test_bootstrap_covers_with_few_unequal_clusters(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "DRAWS", 499)
    # 1,000 runs: one standard error is 0.7 points. The unrestricted bootstrap falls to 0.90 here at 6 clusters.
    assert 0.925 <= coverage(groups, 0.7, 1000) <= 0.975


def test_paired_bootstrap_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "DRAWS", 499)
    draw, hits, runs = rng(5), 0, 1000
    for _ in range(runs):
        sums, counts, clusters = clustered(draw, 8, 0.5)
        own = draw.normal(0, 0.3, 8)[clusters]
        fewer = np.ceil(counts * draw.uniform(0.5, 1.0, len(counts)))
        other = (sums / counts + own - 0.7) * fewer
        found = paired_ratio([sums, other], [counts, fewer], clusters=clusters, generator=draw, unit="nats")
        hits += found.low <= 0.7 <= found.high
    assert 0.925 <= hits / runs <= 0.975


def test_jackknife_is_the_textbook_formula() -> None:
    sums, counts, _ = clustered(rng(1), 5, 0.7)
    value, error = jackknife(sums[None], counts[None])
    deleted = [np.delete(sums, g).sum() / np.delete(counts, g).sum() for g in range(10)]
    assert value == pytest.approx(sums.sum() / counts.sum(), rel=1e-12)
    assert error == pytest.approx(
        np.sqrt(9 / 10 * sum((d - sums.sum() / counts.sum()) ** 2 for d in deleted)), rel=1e-9
    )


def test_jackknife_of_a_difference() -> None:
    first, counts, _ = clustered(rng(2), 7, 0.5)
    second, fewer, _ = clustered(rng(3), 7, 0.5)
    value, error = jackknife(np.stack([first, second]), np.stack([counts, fewer]))
    cut = [np.delete([first, second, counts, fewer], g, axis=1).sum(1) for g in range(14)]
    deleted = np.array([a / m - b / n for a, b, m, n in cut])
    assert value == pytest.approx(first.sum() / counts.sum() - second.sum() / fewer.sum(), rel=1e-9)
    assert error == pytest.approx(np.sqrt(13 / 14 * ((deleted - value) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_equal_clusters_give_the_t_interval_of_their_means(level: float) -> None:
    means = rng(4).gamma(2.0, size=15)
    found = ratio(means * 40, np.full(15, 40), clusters=np.arange(15), generator=rng(), unit="nats", level=level)
    low, high = stats.t.interval(level, 14, means.mean(), stats.sem(means))
    assert (found.value, found.low, found.high) == pytest.approx((means.mean(), low, high), rel=1e-9)


def test_equal_clusters_bootstrap_is_near_the_t_interval() -> None:
    means = rng(4).normal(3.0, 1.0, 11)
    found = ratio(means * 40, np.full(11, 40), clusters=np.arange(11), generator=rng(), unit="nats")
    low, high = stats.t.interval(0.95, 10, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_restricted_bootstrap_is_the_sign_flip_test_with_two_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights ±1 and equal clusters the ends are those of scipy's exact sign-flip test of the t statistic."""
    monkeypatch.setattr(interval, "WEBB", np.array([-1.0, 1.0]))
    means = rng(7).normal(1.0, 1.0, 9)
    found = ratio(means * 10, np.full(9, 10), clusters=np.arange(9), generator=rng(), unit="nats")
    for edge, outward in ((found.low, -1), (found.high, 1)):
        inside, outside = (_sign_flip(means - edge - outward * step * means.std()) for step in (-0.05, 0.05))
        assert outside < 0.05 + 0.01
        assert inside > 0.05 - 0.01


def _sign_flip(differences: Any) -> float:
    def statistic(values: Any, axis: int) -> Any:
        return np.abs(values.mean(axis) / stats.sem(values, axis))

    test = stats.permutation_test((differences,), statistic, permutation_type="samples", alternative="greater")
    return float(test.pvalue)


@given(seed=st.integers(0, 10_000), groups=st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_order_and_names_do_not_matter(seed: int, groups: int) -> None:
    draw = rng(seed)
    sums, counts, clusters = clustered(draw, groups, 0.7)
    order = draw.permutation(len(sums))
    names = np.array([f"work {n}" for n in draw.permutation(groups)])[clusters]
    first = ratio(sums, counts, clusters=clusters, generator=rng(1), unit="nats")
    second = ratio(sums[order], counts[order], clusters=names[order], generator=rng(1), unit="nats")
    assert _numbers(second) == pytest.approx(_numbers(first), rel=1e-6, nan_ok=True)
    assert second.method == first.method


def _numbers(estimate: Estimate) -> tuple[float, ...]:
    return (estimate.value, estimate.low, estimate.high, estimate.tokens, estimate.clusters, estimate.largest_share)


def test_documents_of_one_cluster_count_once() -> None:
    sums, counts, clusters = clustered(rng(1), 13, 0.7)
    split = ratio(sums, counts, clusters=clusters, generator=rng(), unit="nats")
    pairs = sums.reshape(13, 2).sum(1), counts.reshape(13, 2).sum(1)
    joined = ratio(*pairs, clusters=np.arange(13), generator=rng(), unit="nats")
    assert _numbers(split) == pytest.approx(_numbers(joined), rel=1e-12)
    assert (split.documents, joined.documents, split.clusters) == (26, 13, 13)
    assert split.largest_share == pytest.approx(pairs[1].max() / pairs[1].sum())


@pytest.mark.parametrize("groups", [6, 11, 12, 20])
def test_paired_with_a_constant_is_the_single_interval_shifted(groups: int) -> None:
    sums, counts, clusters = clustered(rng(groups), groups, 0.5)
    single = ratio(sums, counts, clusters=clusters, generator=rng(2), unit="nats")
    paired = paired_ratio([sums, 2 * counts], counts, clusters=clusters, generator=rng(2), unit="nats")
    expected = np.array([single.value, single.low, single.high]) - 2
    assert (paired.value, paired.low, paired.high) == pytest.approx(expected, abs=1e-3 * (single.high - single.low))
    assert (paired.tokens, paired.largest_share) == (single.tokens, single.largest_share)


@pytest.mark.parametrize("groups", [7, 20])
def test_what_conditions_share_cancels(groups: int) -> None:
    sums, counts, clusters = clustered(rng(groups), groups, 0.7)
    found = paired_ratio([sums, sums - counts / 2], counts, clusters=clusters, generator=rng(), unit="nats")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)
    swapped = paired_ratio([sums - counts / 2, sums], counts, clusters=clusters, generator=rng(), unit="nats")
    assert swapped.value == pytest.approx(-found.value)


@pytest.mark.parametrize("groups", [0, 1, 5])
def test_few_clusters_have_no_interval(groups: int) -> None:
    sums, counts = np.arange(8) + 1.0, np.full(8, 10)
    keep = slice(0, 8 if groups else 0)
    clusters = np.arange(8) % max(groups, 1)
    found = ratio(sums[keep], counts[keep], clusters=clusters[keep], generator=rng(), unit="nats")
    assert np.isnan([found.low, found.high]).all()
    assert found.method.startswith("none")
    assert found.clusters == groups
    assert np.isnan(found.value) == (groups == 0)


def test_no_tokens_is_undefined_and_empty_documents_do_not_count() -> None:
    empty = ratio(np.zeros(9), np.zeros(9, int), clusters=np.arange(9), generator=rng(), unit="nats")
    assert np.isnan([empty.value, empty.low, empty.high, empty.largest_share]).all()
    assert (empty.tokens, empty.clusters, empty.documents) == (0, 0, 0)
    counts = np.r_[np.zeros(1, int), np.full(12, 5)]
    sums = np.r_[np.nan, rng().normal(size=12)]
    found = ratio(sums, counts, clusters=np.arange(13), generator=rng(), unit="nats")
    assert (found.clusters, found.documents, found.tokens) == (12, 12, 60)
    assert found.value == pytest.approx(sums[1:].sum() / 60)


@pytest.mark.parametrize("groups", [8, 20])
def test_an_undefined_sum_makes_the_whole_undefined(groups: int) -> None:
    sums = np.r_[np.nan, np.ones(groups - 1)]
    found = ratio(sums, np.ones(groups), clusters=np.arange(groups), generator=rng(), unit="nats")
    assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.parametrize("groups", [6, 11, 12])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_a_constant_has_an_interval_of_no_width(groups: int, value: float) -> None:
    counts = rng(1).integers(1, 1000, groups)
    found = ratio(counts * value, counts, clusters=np.arange(groups), generator=rng(), unit="nats")
    assert (found.value, found.low, found.high) == pytest.approx((value, value, value), rel=1e-12)


def test_same_seed_same_interval() -> None:
    sums, counts, clusters = clustered(rng(1), 7, 0.7)
    runs = [ratio(sums, counts, clusters=clusters, generator=rng(s), unit="nats") for s in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
    assert _numbers(runs[2]) == pytest.approx(_numbers(runs[0]), rel=0.2)


def test_higher_level_is_wider_and_an_unreachable_one_is_infinite() -> None:
    sums, counts, clusters = clustered(rng(1), 6, 0.3)
    levels = (0.5, 0.9, 0.99, 1 - 1e-9)
    found = [ratio(sums, counts, clusters=clusters, generator=rng(), unit="nats", level=level) for level in levels]
    lows, highs = [f.low for f in found], [f.high for f in found]
    assert lows == sorted(lows, reverse=True)
    assert highs == sorted(highs)
    assert np.isinf([lows[-1], highs[-1]]).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry a document"):
        ratio(np.ones(3), np.ones(4), clusters=np.arange(3), generator=rng(), unit="nats")
    with pytest.raises(ValueError, match="negative"):
        ratio(np.ones(3), -np.ones(3), clusters=np.arange(3), generator=rng(), unit="nats")
    with pytest.raises(ValueError, match="level"):
        ratio(np.ones(3), np.ones(3), clusters=np.arange(3), generator=rng(), unit="nats", level=95)
    with pytest.raises(ValueError, match="one row a condition"):
        paired_ratio(np.ones(3), np.ones(3), clusters=np.arange(3), generator=rng(), unit="nats")
