"""Estimates from readings made by hand, where every number is known."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.interval import paired_ratio, ratio
from midstream.lens.lens import INPUT, LOGIT, Lens
from midstream.lens.score.causal import CausalScore
from midstream.lens.score.causal_estimates import estimates as causal_estimates
from midstream.lens.score.estimates import ALL_LAYERS, Baseline, add_up, columns, estimates
from midstream.record import SCORE, Provenance, ReadingTable

BETTER = Lens("better", "output", 1)
LAST = 3


def reading(lenses, positions, values):
    """A chunk with rows for layers 0 to LAST; ``values(lens, layer)`` -> the KL at its positions, ranks follow it."""
    rows = [(lens, layer, at) for lens in lenses for layer in range(LAST + 1) for at in range(positions)]
    kl = np.concatenate([values(lens, layer) for lens in lenses for layer in range(LAST + 1)])
    made = {
        "lens": np.array([lens for lens, _, _ in rows], dtype=object),
        "site": np.array(["resid_post"] * len(rows), dtype=object),
        "layer": np.array([layer for _, layer, _ in rows], dtype=np.int16),
        "kl_final_lens": kl.astype(np.float32),
        "kl_lens_final": kl.astype(np.float32) * 2,
        "logprob": -kl.astype(np.float32),
        "entropy": np.full(len(rows), np.nan, np.float32),
        "rank": np.where(kl < 1, 1, 7).astype(np.int32),
        "final_top1_rank": np.where(kl < 2, 1, 3).astype(np.int32),
    }
    return ReadingTable(made, {}, {}, {}, Provenance(), LAST)


def corpus(seed, documents=25, gain=0.25):
    """Documents of unequal length, in two chunks each; ``better`` is better by ``gain`` nats at every position."""
    draw = np.random.default_rng(seed)
    made, kept = [], []
    for number in range(documents):
        parts = [int(n) for n in draw.integers(1, 9, 2)]
        base = [draw.gamma(2.0, 1.0, (LAST + 1, n)) + 0.3 * number for n in parts]
        chunks = [
            reading(["logit", "better"], n, lambda lens, layer, b=b: b[layer] - gain * (lens == "better"))
            for n, b in zip(parts, base, strict=True)
        ]
        made.append(add_up(f"work {number // 2}", chunks, {}))
        kept.append(np.concatenate(base, axis=1))
    return made, kept


def pick(rows, **wanted):
    (found,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return found.estimate


def test_a_value_is_the_average_over_positions_with_the_interval_of_its_clusters():
    documents, kept = corpus(1)
    rows = estimates(documents, [LOGIT, BETTER], [], last=LAST, seed=0)
    clusters = [document.cluster for document in documents]
    for layer in range(LAST + 1):
        sums, counts = [values[layer].sum() for values in kept], [values.shape[1] for values in kept]
        found = pick(rows, lens="logit", layer=layer, measure="kl", against="")
        expected = ratio(sums, counts, clusters=clusters, generator=np.random.default_rng(0), unit="nats")
        assert found.value == pytest.approx(np.concatenate(kept, 1)[layer].mean(), rel=1e-6)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)
        assert (found.clusters, found.documents, found.tokens) == (13, 25, sum(counts))
        assert pick(rows, lens="logit", layer=layer, measure="kl_reverse", against="").value == pytest.approx(
            2 * found.value, rel=1e-6
        )
        everything = np.concatenate(kept, 1)[layer]
        assert pick(rows, lens="logit", layer=layer, measure="accuracy", against="").value == pytest.approx(
            (everything < 1).mean()
        )
        assert pick(rows, lens="logit", layer=layer, measure="agreement", against="").value == pytest.approx(
            (everything < 2).mean()
        )


def test_a_lens_better_by_a_known_amount_is_better_by_it_with_no_doubt():
    documents, _ = corpus(2, gain=0.25)
    rows = estimates(documents, [LOGIT, BETTER], [], last=LAST, seed=0)
    for layer in (*range(LAST + 1), ALL_LAYERS):
        found = pick(rows, lens="logit", layer=layer, measure="kl", against="better")
        assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-5)
        assert not np.isclose(
            pick(rows, lens="logit", layer=layer, measure="kl", against="").low,
            pick(rows, lens="logit", layer=layer, measure="kl", against="").high,
        )


def test_the_mean_over_layers_leaves_the_last_out():
    documents, kept = corpus(3)
    rows = estimates(documents, [LOGIT, BETTER], [], last=LAST, seed=0)
    found = pick(rows, lens="logit", layer=ALL_LAYERS, measure="kl", against="")
    assert found.value == pytest.approx(np.concatenate(kept, 1)[:LAST].mean(), rel=1e-6)
    assert found.tokens == np.concatenate(kept, 1).shape[1]


def test_undefined_stays_undefined():
    documents, _ = corpus(4)
    rows = estimates(documents, [LOGIT], [], last=LAST, seed=0)
    found = pick(rows, lens="logit", layer=1, measure="entropy", against="")
    assert np.isnan([found.value, found.low, found.high]).all()


def test_only_lenses_about_the_same_token_by_the_same_reader_are_compared():
    names = ["logit", "better", "future:1", "input"]
    lenses = [LOGIT, BETTER, Lens("future:1", "output", 2), INPUT]
    table = reading(names, 5, lambda _lens, layer: np.arange(5.0) + layer)
    rows = estimates([add_up(str(n), [table], {}) for n in range(12)], lenses, [], last=LAST, seed=0)
    assert {(row.lens, row.against) for row in rows if row.against} == {("logit", "better")}
    assert {row.measure for row in rows if row.lens == "input"} == {"accuracy"}, "it has no probabilities"


def test_a_baseline_is_subtracted_at_every_layer():
    table = reading(["future:1"], 5, lambda _lens, layer: np.full(5, 0.5 if layer == 2 else 3.0))
    answers = np.array([1, 0, 0, 1, 1])
    more = {("future:1 | back-off", "resid_post", 0): {"agreement": answers, "accuracy": answers}}
    base = Baseline("future:1 | back-off", "future:1", ("agreement", "accuracy"))
    lens = Lens("future:1", "output", 2)
    rows = estimates([add_up(str(n), [table], more) for n in range(12)], [lens], [base], last=LAST, seed=0)
    assert pick(rows, lens=base.name, layer=0, measure="accuracy", against="").value == pytest.approx(0.6)
    for layer, expected in ((2, 0.4), (1, -0.6), (ALL_LAYERS, 1 / 3 - 0.6)):
        found = pick(rows, lens="future:1", layer=layer, measure="agreement", against=base.name)
        assert found.value == pytest.approx(expected)
    assert not [row for row in rows if row.measure == "kl" and (row.against or row.lens == base.name)]


def test_columns_are_as_declared():
    documents, _ = corpus(5)
    made = columns(estimates(documents, [LOGIT, BETTER], [], last=LAST, seed=0))
    assert list(made) == [column.name for column in SCORE]
    for column in SCORE:
        assert made[column.name].dtype == (object if column.dtype == "str" else column.dtype)
    assert len({len(values) for values in made.values()}) == 1


def test_the_causal_score_counts_documents_and_leaves_undefined_prefixes_out():
    draw = np.random.default_rng(6)
    first, second = draw.normal(size=(2, 14, 3))
    first[4, 1] = np.nan
    none = np.zeros((14, 3))
    found = {
        name: CausalScore((2, 5, 8), values, none, values + 1, none + 0.5)
        for name, values in (("logit", first), ("better", second))
    }
    clusters = [f"work {number // 2}" for number in range(14)]
    rows = causal_estimates(found, [LOGIT, BETTER, INPUT], clusters, seed=0)
    spearman = pick(rows, lens="logit", layer=5, measure="spearman", against="")
    assert spearman.value == pytest.approx(np.nanmean(first[:, 1]))
    assert (spearman.documents, spearman.clusters) == (13, 7)
    assert pick(rows, lens="better", layer=8, measure="effect", against="").value == pytest.approx(
        second[:, 2].mean() + 0.5
    )
    paired = pick(rows, lens="logit", layer=5, measure="spearman", against="better")
    both = np.delete(np.stack([first, second])[:, :, 1], 4, 1)
    expected = paired_ratio(
        both, np.ones(13), clusters=np.delete(clusters, 4), generator=np.random.default_rng(0), unit="1"
    )
    assert (paired.value, paired.low) == pytest.approx((expected.value, expected.low))
    over = pick(rows, lens="logit", layer=ALL_LAYERS, measure="spearman", against="")
    assert over.value == pytest.approx(np.delete(first, 4, 0).mean())
