"""Kinds of token, tables without a stream, how alone rows stand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from midstream.study.recovery import token as known
from midstream.study.study import Ground, Text


@pytest.mark.parametrize(
    ("before", "own", "kind"),
    [
        (b" the", b" dog", "word start"),
        (b" the", b" Dog", "name"),
        (b".", b" Dog", "word start"),
        (b"\n", b"Dog", "word start"),
        (b" said", b" I", "word start"),
        (b" anti", b"que", "continuation"),
        (b" Mc", b"Donald", "continuation"),
        ("é".encode(), b"t", "continuation"),
        (b" in", b" 1984", "number"),
        (b"1", b"9", "number"),
        (b" dog", b",", "punctuation"),
        (b" dog", b" (", "punctuation"),
        (b" dog", b"\n", "other"),
        (b" dog", b"", "other"),
        (b" dog", b"\xc3", "other"),
    ],
)
def test_the_kind_of_a_token(before, own, kind):
    assert known.kind(before, own) == kind
    assert kind in known.KINDS


@pytest.fixture
def ground(tiny):
    draw = np.random.default_rng(0)
    fit = [Text(n, f"w{n}", tuple(draw.integers(3, 12, 60).tolist())) for n in range(12)]
    return Ground(tiny, {"fit": fit}, "quick", 0)


def test_the_tables_are_what_most_often_came(ground):
    texts = [text.ids for text in ground.texts["fit"]]
    ids = torch.tensor(texts[0])
    at = torch.arange(5, 50)
    for lag in (1, 3):
        seen = {}
        for text in texts:
            for i in range(lag, len(text)):
                seen.setdefault(text[i], Counter())[text[i - lag]] += 1
        expected = [max(seen[int(ids[i])].items(), key=lambda one: (one[1], -one[0]))[0] for i in at]
        assert known.guess(ground, ids, at, lag).tolist() == expected
    after = {}
    for text in texts:
        for i in range(2, len(text)):
            after.setdefault(text[i - 2 : i], Counter())[text[i]] += 1
    expected = [
        max(after[tuple(ids[i - 2 : i].tolist())].items(), key=lambda one: (one[1], -one[0]))[0] for i in at.tolist()
    ]
    assert known.guess(ground, ids, at, 0).tolist() == expected


def test_frequencies_and_their_logarithm(ground):
    counts = known.frequencies(ground)
    assert counts.sum() == 12 * 60
    logs = known.unigram(ground)
    assert np.exp(logs).sum() == pytest.approx(1)
    assert logs[5] - logs[300] == pytest.approx(np.log(counts[5] + 1))


def test_a_fifth_of_the_types_is_kept_from_a_fit_by_seed(ground):
    size = ground.model.anatomy.vocabulary
    held = known.unseen(ground, 0.2)
    assert int(held.sum()) == round(0.2 * size)
    assert torch.equal(held, known.unseen(ground, 0.2))
    other = Ground(ground.model, ground.texts, "quick", 1)
    assert not torch.equal(held, known.unseen(other, 0.2))


def test_how_alone_a_row_stands(ground):
    rows = ground.model.anatomy.input_rows().double()
    tokens = torch.tensor([5, 9, 5, 300])
    away = (rows[tokens, None] - rows).norm(dim=-1)
    away[torch.arange(4), tokens] = torch.inf
    np.testing.assert_allclose(known.alone(ground, tokens), away.amin(1).numpy(), rtol=1e-3)
