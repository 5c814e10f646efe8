"""Small models from seeds: what is drawn, what a step of training does, and what an evaluation adds up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from midstream.errors import RequestError
from midstream.study.toy import (
    Shape,
    Training,
    batches,
    evaluate,
    fresh,
    next_byte,
    plain_scores,
    rate,
    room,
    train,
    windows,
)

SHAPE = Shape(width=16, blocks=2, heads=2, window=12)
TRAINING = Training(steps=6, batch=5, rate=0.01, warmup=2)
DOCUMENTS = [bytes((7 * i + j * j) % 256 for j in range(length)) for i, length in enumerate((40, 12, 13, 29, 0, 75))]


def weights(module):
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def trained(seed, loss=None, training=TRAINING):
    module = fresh(SHAPE, seed)
    losses = train(module, batches(DOCUMENTS, SHAPE.window, training, seed), loss or next_byte(plain_scores), training)
    return module, losses


def test_weights_are_the_seeds_and_no_global_draw_is_made():
    before = torch.get_rng_state()
    one, same, other = (weights(fresh(SHAPE, seed)) for seed in (3, 3, 4))
    trained(3)
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in one.items():
        assert torch.equal(weight, same[name])
        assert weight.dim() == 1 or not torch.equal(weight, other[name])
        if weight.dim() == 1:
            assert torch.equal(weight, torch.full_like(weight, float("ln" in name and "weight" in name)))
    module = fresh(SHAPE, 3)
    assert module.lm_head.weight is module.model.wte.weight


def test_maps_are_drawn_as_wide_as_documented():
    module = fresh(Shape(width=128, blocks=3, heads=4, window=64), 0)
    expected = {"wte": 0.1, "wpe": 0.1, "c_attn": 128**-0.5, "c_fc": 128**-0.5}
    expected |= {"attn.c_proj": (128 * 6) ** -0.5, "mlp.c_proj": (512 * 6) ** -0.5}
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            (scale,) = {scale for part, scale in expected.items() if part in name}
            assert float(weight.detach().std()) == pytest.approx(scale, rel=0.03)


def test_without_the_scale_the_maps_that_write_are_as_wide_as_others():
    one, other = (weights(fresh(SHAPE, 3, scaled=scaled)) for scaled in (True, False))
    for name, weight in one.items():
        factor = 2 if "c_proj.weight" in name else 1  # sqrt(2 blocks)
        torch.testing.assert_close(other[name], factor * weight)


def test_every_place_of_every_document_is_drawn_and_none_across_two():
    cut = {document[i : i + 13] for document in DOCUMENTS for i in range(len(document) - 12)}
    drawn = batches(DOCUMENTS, 12, Training(steps=100, batch=40, rate=1, warmup=1), 0)
    rows = [bytes(row.tolist()) for batch in drawn for row in batch]
    assert len(rows) == 4000
    assert set(rows) == cut
    assert room(DOCUMENTS, 12) == sum(max(len(document) - 12, 0) for document in DOCUMENTS) == 28 + 1 + 17 + 63
    # the one place of the third document is drawn no more often than another
    assert 15 < rows.count(DOCUMENTS[2]) < 65


def test_batches_are_the_seeds():
    one, same, other = (torch.stack([*batches(DOCUMENTS, 12, TRAINING, seed)]) for seed in (1, 1, 2))
    assert one.shape == (6, 5, 13)
    assert one.dtype == torch.int64
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_documents_that_are_all_too_short_are_refused():
    with pytest.raises(RequestError, match="longest of 2 documents has 12 bytes: expected more than 12"):
        next(batches([b"a" * 12, b"b"], 12, TRAINING, 0))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_gives_the_same_numbers_again(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (one, losses), (same, again), (_, others) = trained(5), trained(5), trained(6)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(losses, again)
    assert (losses != others).all()
    assert all(map(torch.equal, weights(one).values(), weights(same).values()))


def test_the_rate_rises_and_falls():
    training = Training(steps=20, batch=1, rate=0.5, warmup=4)
    found = [rate(step, training) for step in range(21)]
    assert found[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert all(one > other for one, other in itertools.pairwise(found[4:]))
    assert found[12] == pytest.approx(0.25)
    assert found[20] == pytest.approx(0, abs=1e-12)
    assert [rate(step, replace(training, last=1.0)) for step in range(21)] == [*found[:4], *[0.5] * 17]
    half = [rate(step, replace(training, last=0.5)) for step in range(21)]
    assert half[12] == pytest.approx(0.375)
    assert half[20] == pytest.approx(0.25)


def test_only_matrices_decay_and_by_the_rate():
    def nothing(module, batch):
        return sum(weight.sum() for weight in module.parameters()) * 0.0

    training = Training(steps=3, batch=2, rate=0.1, warmup=2, decay=0.5)
    module = trained(0, nothing, training)[0]
    shrunk = math.prod(1 - 0.5 * rate(step, training) for step in range(3))
    assert shrunk < 0.9
    for name, start in weights(fresh(SHAPE, 0)).items():
        expected = start * (shrunk if start.dim() > 1 else 1.0)
        torch.testing.assert_close(weights(module)[name], expected)


def test_a_frozen_parameter_stays_and_the_others_move():
    module, start = fresh(SHAPE, 0), weights(fresh(SHAPE, 0))
    module.model.h[0].requires_grad_(False)
    train(module, batches(DOCUMENTS, 12, TRAINING, 0), next_byte(plain_scores), TRAINING)
    for name, weight in weights(module).items():
        assert torch.equal(weight, start[name]) == (".h.0." in name)


def test_what_can_be_learned_is_learned():
    training = Training(steps=60, batch=8, rate=0.02, warmup=5)
    module = fresh(SHAPE, 0)
    losses = train(module, batches([b"abcd" * 20], 12, training, 0), next_byte(plain_scores), training)
    assert losses[0] > 4
    assert losses[-1] < 0.05
    nats, count = evaluate(module, [b"abcd" * 9, b"dcba" * 9], plain_scores, 12)
    assert count.tolist() == [35, 35]
    assert nats[0] / 35 < 0.1 < 1 < nats[1] / 35


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(RequestError, match=r"the loss is nan at step 0: lower the learning rate, 0\.01\."):
        trained(0, lambda module, batch: next_byte(plain_scores)(module, batch) * float("nan"))


def test_an_evaluation_is_the_sum_over_bytes_one_by_one():
    module = fresh(SHAPE, 2).double()
    documents = [*DOCUMENTS, b"x", b"xy", bytes(range(13)), bytes(range(14))]
    nats, count = evaluate(module, documents, plain_scores, 12)
    assert count.tolist() == [max(len(document) - 1, 0) for document in documents]
    with torch.no_grad():
        for document, found in zip(documents, nats, strict=True):
            expected = 0.0
            for at in range(1, len(document)):
                # windows begin every 6 bytes, the last as late as it can; the first that holds the byte counts
                last = max(len(document) - 13, 0)
                start = next(s for s in (*range(0, last, 6), last) if s + 12 >= at)
                ids = torch.tensor([list(document[start:at])])
                expected += float(functional.cross_entropy(module(ids).logits[:, -1], torch.tensor([document[at]])))
            assert found == pytest.approx(expected, rel=1e-9)
    assert nats[4] == nats[6] == 0


@pytest.mark.parametrize("window", [1, 2, 7, 12])
def test_every_byte_after_the_first_counts_once_with_half_a_window_before_it(window):
    for length in range(60):
        counted = []
        for start, first, p in windows(length, window):
            assert p == min(window, length - 1)
            assert 0 <= start < start + p <= length - 1
            for position in range(first, p):
                counted.append(start + position + 1)
                assert position + 1 > min(window // 2, start + position)
        assert counted == list(range(1, length))
