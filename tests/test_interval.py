"""interval.py: coverage by simulation, closed forms, and what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from midstream import interval
from midstream.interval import contrast, jackknife, paired_ratio, ratio
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
def test_interval_covers(groups: int, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "RESAMPLES", 999)
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
def test_equal_clusters_without_skewness_give_the_t_interval_of_their_means(level: float) -> None:
    half = rng(4).normal(size=120)
    means = 5 + np.r_[half, -half]
    found = ratio(means * 40, np.full(240, 40), clusters=np.arange(240), generator=rng(), unit="nats", level=level)
    low, high = stats.t.interval(level, 239, means.mean(), stats.sem(means))
    assert (found.value, found.low, found.high) == pytest.approx((means.mean(), low, high), rel=1e-9)


@pytest.mark.parametrize("groups", [9, 240])
def test_skewness_moves_the_far_end_of_equal_clusters_as_the_formula_says(groups: int) -> None:
    means = rng(4).gamma(1.0, size=groups)
    found = ratio(means * 40, np.full(groups, 40), clusters=np.arange(groups), generator=rng(), unit="nats")
    mirrored = ratio(-means * 40, np.full(groups, 40), clusters=np.arange(groups), generator=rng(), unit="nats")
    t = stats.t.ppf(0.975, groups - 1)
    shift = stats.skew(means, bias=False) * (2 * t**2 + 1) / (6 * np.sqrt(groups))
    assert shift > 0.1
    assert found.high == pytest.approx(means.mean() + (t + shift) * stats.sem(means), rel=1e-9)
    assert mirrored.low == pytest.approx(-found.high, rel=1e-9)
    if groups > interval.MANY:
        assert found.low == pytest.approx(means.mean() - t * stats.sem(means), rel=1e-9)


@pytest.mark.parametrize("conditions", [1, 2])
def test_the_cluster_bootstrap_is_its_definition(conditions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against clusters drawn, estimated and studentised one sample at a time."""
    monkeypatch.setattr(interval, "RESAMPLES", 399)
    draw = rng(conditions)
    counts = np.ceil(100 * np.exp(draw.normal(0, 0.5, (conditions, 14))))
    sums = draw.exponential(size=counts.shape) * counts
    center, error = (float(part) for part in jackknife(sums, counts))
    below, above = interval._resampled(sums, counts, error=error, level=0.9, seed=8)
    found = []
    for picked in rng(8).integers(0, 14, (399, 14)):
        s, n = sums[:, picked], counts[:, picked]
        theta, signs = s.sum(1) / n.sum(1), np.array([1.0, -1.0])[:conditions]
        added = (signs / n.sum(1)) @ (s - theta[:, None] * n)
        spread = np.sqrt(14 / 13 * (added**2).sum())
        found.append((signs @ theta - center) / max(spread, error / 2))
    found.sort()
    assert (below, above) == pytest.approx((found[-20], -found[19]), rel=1e-9)


@pytest.mark.parametrize("groups", [9, 30])
def test_skewed_clusters_are_covered(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponential cluster means of unequal clusters, where t from the jackknife covers 88 and 91 % of the time."""
    monkeypatch.setattr(interval, "DRAWS", 499)
    monkeypatch.setattr(interval, "RESAMPLES", 999)
    draw, runs = rng(groups), 1000
    ends = []
    for _ in range(runs):
        counts = np.ceil(100 * np.exp(draw.normal(0, 0.8, groups)))
        sums = (draw.exponential(size=groups) - 1) * counts
        found = ratio(sums, counts, clusters=np.arange(groups), generator=draw, unit="nats")
        ends.append((found.low, found.high))
    low, high = np.array(ends).T
    # one standard error is 0.8 points
    assert (0.895 if groups < 12 else 0.92) <= ((low <= 0) & (high >= 0)).mean() <= 0.97
    assert (high < 0).mean() <= (0.1 if groups < 12 else 0.075)


@pytest.mark.parametrize("groups", [6, 12, 30, 201])
def test_one_outlier_among_equals_has_a_finite_interval(groups: int) -> None:
    """Most samples miss the outlier and have no spread at all; the end away from it is a few standard errors off."""
    sums = np.zeros(groups)
    sums[0] = 1.0
    for sign in (1, -1):
        found = ratio(sign * sums, np.ones(groups), clusters=np.arange(groups), generator=rng(), unit="1")
        error = float(jackknife(sums[None], np.ones((1, groups)))[1])
        assert np.isfinite([found.low, found.high]).all()
        assert max(found.high - found.value, found.value - found.low) < 6 * error


def test_equal_clusters_bootstrap_is_near_the_t_interval() -> None:
    means = rng(4).normal(3.0, 1.0, 11)
    found = ratio(means * 40, np.full(11, 40), clusters=np.arange(11), generator=rng(), unit="nats")
    low, high = stats.t.interval(0.95, 10, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_restricted_bootstrap_is_the_sign_flip_test_with_two_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights ±1 and equal clusters the ends are those of scipy's exact sign-flip test of the t statistic."""
    monkeypatch.setattr(interval, "WEBB", np.array([-1.0, 1.0]))
    means = rng(7).normal(1.0, 1.0, 9)
    low, high = interval._wild(10 * means[None], np.full((1, 9), 10.0), level=0.95, generator=rng())
    for edge, outward in ((low, -1), (high, 1)):
        inside, outside = (_sign_flip(means - edge - outward * step * means.std()) for step in (-0.05, 0.05))
        assert outside < 0.05 + 0.01
        assert inside > 0.05 - 0.01


@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("groups", [6, 11])
def test_bootstrap_rejects_what_its_definition_rejects(
    conditions: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shortcut, linear in the null value, against samples drawn and studentised anew for every null value."""
    monkeypatch.setattr(interval, "DRAWS", 499)
    draw = rng(groups + conditions)
    counts = np.ceil(100 * np.exp(draw.normal(0, 0.8, (conditions, groups))))
    sums = draw.normal(1, 1, counts.shape) * counts
    low, high = interval._wild(sums, counts, level=0.95, generator=rng(3))
    weights = interval.WEBB[rng(3).integers(0, 6, (499, 1, groups))]
    for edge, outward in ((low, -1), (high, 1)):
        step = outward * 2e-3 * (high - low)
        inside, outside = (_p_value(sums, counts, weights, edge + s) for s in (-step, step))
        assert outside <= 0.05 < inside + 0.005
        assert inside >= outside


def _p_value(sums: Any, counts: Any, weights: Any, null: float) -> float:
    signs, totals = np.array([1.0, -1.0])[: len(sums)], counts.sum(1)
    center, error = jackknife(sums, counts)
    mean = (sums.sum(1) / totals + (null - center) * signs / totals / (1 / totals).sum())[:, None] * counts
    value, spread = jackknife(mean + weights * (sums - mean), counts)
    return float((np.abs(value - null) * error >= abs(center - null) * spread * (1 - 1e-9)).mean())


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


def test_sums_equal_but_for_their_last_digits_have_the_same_draws() -> None:
    draw = rng(3)
    tied, other, counts = np.repeat(draw.normal(size=10), 2), draw.normal(size=20), np.full(20, 8)
    first, second = (
        paired_ratio([tied + shift, other], counts, clusters=np.arange(20), generator=rng(1), unit="nats")
        for shift in (0.0, 1e-13 * draw.normal(size=20))
    )
    assert _numbers(second) == pytest.approx(_numbers(first), rel=1e-9)


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


def test_documents_of_one_condition_count_where_they_are_asked_to():
    draw = rng(5)
    sums, counts = draw.normal(0, 1, (2, 30)), np.ones((2, 30))
    counts[0, :10], sums[0, :10] = 0, 0
    whole = contrast(sums, counts, clusters=np.arange(30), generator=draw, unit="nats")
    assert whole.value == pytest.approx(sums[0].sum() / 20 - sums[1].mean())
    assert whole.clusters == 20  # of the condition that fewer have
    assert paired_ratio(sums, counts, clusters=np.arange(30), generator=draw, unit="nats").clusters == 20


def test_a_condition_that_few_clusters_have_gives_no_interval():
    draw = rng(6)
    sums, counts = draw.normal(0, 1, (2, 30)), np.ones((2, 30))
    counts[0, 5:], sums[0, 5:] = 0, 0
    few = contrast(sums, counts, clusters=np.arange(30), generator=draw, unit="nats")
    assert few.clusters == 5
    assert np.isnan(few.low)
    counts[0, :7], sums[0, :7] = 1, draw.normal(0, 1, 7)
    enough = contrast(sums, counts, clusters=np.arange(30), generator=draw, unit="nats")
    assert enough.low < enough.value < enough.high
