"""The KL stage on worlds small enough to know the best map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midstream.errors import FitError
from midstream.lens.fit import kl as fit_kl
from midstream.lens.fit.kl import Refinement
from midstream.lens.lens import Transport
from midstream.readout import reference as plain
from midstream.readout.gradient import reference
from midstream.readout.reader import Reader, output_reader

KEY = ("stream", 3)
TRAIN, BATCH = slice(0, 6000), 100


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def least_squares(x, y):
    """The start that the first stage would give, and the covariance it knows."""
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([x.double(), ones], 1), y.double()).solution.float()
    return Transport(solution[:-1].T.contiguous(), solution[-1]), torch.cov(x.double().T, correction=0)


class World:
    """A stream x with outlier coordinates, the output's y, and a reader.

    The direction of y is a fixed map of x, its length grows fast with one coordinate. A norm takes the length away, so
    that map reads x without any divergence; least squares fits the long ones.
    """

    def __init__(self, seed=0, *, norm="rms", bias=False, cap=None, d=12):
        generator = torch.Generator().manual_seed(seed)
        made = {"rms": torch.nn.RMSNorm(d, eps=1e-6), "layer": torch.nn.LayerNorm(d, eps=1e-6), None: None}[norm]
        unembedding = normal(generator, 150, d)
        self.reader = Reader(unembedding, normal(generator, 150) if bias else None, cap, made, 1.3)
        spread = torch.logspace(0, 1, d)
        plain = normal(generator, 8000, d)
        self.map = normal(generator, d, d)
        y = plain @ self.map.T
        self.x = plain * spread + 3 * spread
        self.y = y * (2 * plain[:, :1]).exp() if norm else y + (0.6 * normal(generator, 8000, d)).exp() * y.abs()
        self.scaled = self.map / spread
        self.target = reference(self.reader, self.reader.prepare(self.y))
        self.start, self.covariance = least_squares(self.x[TRAIN], self.y[TRAIN])

    def refinement(self, passes=1):
        return Refinement(self.reader, {KEY: self.start}, {KEY: self.covariance}, planned=passes * TRAIN.stop)

    def held(self, refinement):
        return {KEY: float(refinement.evaluate({KEY: self.x[TRAIN.stop :]}, self.target[TRAIN.stop :])[KEY].mean())}

    def fit(self, refinement, passes=1):
        """Held-out divergence before, between and after the passes."""
        seen = [self.held(refinement)]
        refinement.checkpoint(seen[0])
        for _ in range(passes):
            for first in range(0, TRAIN.stop, BATCH):
                rows = slice(first, first + BATCH)
                refinement.step({KEY: self.x[rows]}, self.target[rows])
            seen.append(self.held(refinement))
            refinement.checkpoint(seen[-1])
        return [held[KEY] for held in seen]


def divergence(world, transport):
    """On held-out rows, mean."""
    refinement = Refinement(world.reader, {KEY: transport}, {KEY: world.covariance}, planned=1)
    return world.held(refinement)[KEY]


@pytest.fixture(autouse=True)
def rate(monkeypatch):
    """These worlds have little noise, and few steps in which to go far."""
    monkeypatch.setattr(fit_kl, "RATE", 0.05)


def test_finds_the_planted_map_that_least_squares_does_not(monkeypatch):
    monkeypatch.setattr(fit_kl, "RATE", 0.3)
    world = World()
    refinement = world.refinement(passes=2)
    before, *_, after = world.fit(refinement, passes=2)
    found = refinement.result()[KEY]
    assert after < 0.2 * before
    assert divergence(world, found) == pytest.approx(after, rel=1e-4)

    def alike(weight):
        # the centre of x is far from 0, so only what varies counts
        return float(torch.cosine_similarity((weight * world.x.std(0)).flatten(), world.map.flatten(), dim=0))

    assert alike(found.weight) > 0.93 > 0.8 > alike(world.start.weight)


@pytest.mark.parametrize(
    ("norm", "bias", "cap"), [("layer", True, None), ("rms", False, 5.0), ("layer", True, 5.0), (None, True, None)]
)
def test_every_kind_of_reader_gets_better(norm, bias, cap):
    world = World(1, norm=norm, bias=bias, cap=cap)
    refinement = world.refinement()
    before, after = world.fit(refinement)
    assert after < 0.9 * before


def test_the_unit_of_the_stream_does_not_matter():
    """A layer whose stream is a thousand times larger is fitted no faster and no slower."""
    worlds = World(2), World(2)
    worlds[1].x = worlds[1].x * 1000
    worlds[1].start, worlds[1].covariance = least_squares(worlds[1].x[TRAIN], worlds[1].y[TRAIN])
    after = [world.fit(world.refinement())[-1] for world in worlds]
    assert after[0] == pytest.approx(after[1], rel=0.02)


def test_keys_do_not_touch_each_other_and_runs_repeat():
    """Maps fitted beside others of another width come out as they do alone; a repeat is equal bit for bit."""
    world = World(3)
    wide = torch.cat([world.x, world.x.roll(1, 0)], 1)
    start, covariance = least_squares(wide[TRAIN], world.y[TRAIN])
    keys = KEY, ("tokens", 0)
    found = []
    for chosen in (keys, keys, keys[:1], keys[1:]):
        starts = {KEY: world.start, ("tokens", 0): start}
        covariances = {KEY: world.covariance, ("tokens", 0): covariance}
        refinement = Refinement(world.reader, {key: starts[key] for key in chosen}, covariances, planned=500)
        for first in range(0, 500, 50):
            rows = slice(first, first + 50)
            x = {KEY: world.x[rows], ("tokens", 0): wide[rows]}
            refinement.step({key: x[key] for key in chosen}, world.target[rows])
        held = {KEY: world.x[TRAIN.stop :], ("tokens", 0): wide[TRAIN.stop :]}
        found.append(refinement.evaluate({key: held[key] for key in chosen}, world.target[TRAIN.stop :]))
    both, again, *alone = found
    for key, other in zip(keys, alone, strict=True):
        assert np.array_equal(both[key], again[key])
        np.testing.assert_allclose(both[key], other[key], rtol=1e-2, atol=1e-3)


def test_future_targets_are_those_the_driver_shifts_to():
    world = World(4)
    ahead = 2
    rows = torch.arange(world.x.shape[0] - ahead)
    moved = world.target[rows + ahead]
    start, covariance = least_squares(world.x[:-ahead][TRAIN], world.y[ahead:][TRAIN])
    refinement = Refinement(world.reader, {KEY: start}, {KEY: covariance}, planned=100)
    kl = refinement.evaluate({KEY: world.x[rows[:5]]}, moved[:5])[KEY]
    z = world.reader.prepare(start(world.x[:5])) @ world.reader.weight.T
    final = (world.reader.prepare(world.y[2:7]) @ world.reader.weight.T).log_softmax(1)
    np.testing.assert_allclose(kl, (final.exp() * (final - z.log_softmax(1))).sum(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rate", [3.0, 1e30])
def test_an_absurd_rate_is_an_error_and_the_start_comes_back(rate, monkeypatch):
    monkeypatch.setattr(fit_kl, "RATE", rate)
    monkeypatch.setattr(fit_kl, "DIVERGED", 1.5)
    world = World(5)
    refinement = world.refinement()
    with pytest.raises(FitError, match=r"layer 3, step \d+"):
        world.fit(refinement)
    found = refinement.result()[KEY]
    assert torch.equal(found.weight, world.start.weight)
    assert torch.equal(found.bias, world.start.bias)


def test_never_worse_than_the_start_on_held_out_text(monkeypatch):
    monkeypatch.setattr(fit_kl, "RATE", 10.0)
    monkeypatch.setattr(fit_kl, "DIVERGED", 1e9)
    world = World(6, norm="layer", bias=True)
    refinement = world.refinement(passes=3)
    seen = world.fit(refinement, passes=3)
    assert max(seen) > seen[0]
    assert divergence(world, refinement.result()[KEY]) == pytest.approx(min(seen), rel=1e-4)


def test_a_row_that_is_no_number_names_layer_and_step_and_the_maps_stay():
    world = World(7)
    refinement = world.refinement()
    refinement.checkpoint(world.held(refinement))
    refinement.step({KEY: world.x[:50]}, world.target[:50])
    after = world.held(refinement)
    refinement.checkpoint(after)
    sick = world.x[50:100].clone()
    sick[7, 1] = torch.nan
    with pytest.raises(FitError, match="layer 3, step 2: its gradient is no number"):
        refinement.step({KEY: sick}, world.target[50:100])
    assert world.held(refinement) == after
    best = refinement.result()[KEY]
    assert divergence(world, best) == pytest.approx(min(after[KEY], divergence(world, world.start)), rel=1e-4)
    with pytest.raises(FitError, match="layer 3, step 2: nan nats"):
        refinement.checkpoint({KEY: float("nan")})


def test_stops_when_no_map_has_got_better_for_a_while():
    world = World(8)
    refinement = world.refinement()
    assert not refinement.checkpoint({KEY: 1.0})
    refinement.step({KEY: world.x[:50]}, world.target[:50])
    answers = [refinement.checkpoint({KEY: value}) for value in (0.9, *[0.95] * fit_kl.PATIENCE)]
    assert answers == [False] * fit_kl.PATIENCE + [True]


@pytest.mark.parametrize("exact", [True, False])
def test_the_first_step_goes_down_the_gradient_of_autograd(tiny, exact, monkeypatch):
    """Through a model's own final norm; a first step of Adam shows the sign of each derivative."""
    monkeypatch.setattr("midstream.readout.gradient._multiplies_bfloat16", lambda _device: not exact)
    reader = output_reader(tiny.anatomy)
    generator = torch.Generator().manual_seed(9)
    x, final, d = normal(generator, 40, 32), normal(generator, 40, 32), 32
    weight, bias = (0.3 * normal(generator, *shape) for shape in ((d, d), (d,)))
    at = [value.double().requires_grad_() for value in (weight, bias)]
    h = x.double() @ at[0].T + at[1]
    norm = tiny.anatomy.final_norm
    prepared = h * (h.square().mean(1, keepdim=True) + 1e-5).rsqrt() * norm.weight.double()
    log_p = plain.logits(reader, prepared).log_softmax(1)
    log_f = plain.logits(reader, reader.prepare(final)).log_softmax(1)
    expected = torch.autograd.grad((log_f.exp() * (log_f - log_p)).sum(1).mean(), at)
    refinement = Refinement(reader, {KEY: Transport(weight, bias)}, {KEY: torch.eye(d).double()}, planned=400)
    refinement.checkpoint({KEY: 1.0})
    refinement.step({KEY: x}, reference(reader, reader.prepare(final)))
    refinement.checkpoint({KEY: 0.0})
    moved = refinement.result()[KEY]
    for now, before, slope in zip((moved.weight, moved.bias), (weight, bias), expected, strict=True):
        clear = slope.abs() > (1e-3 if exact else 0.1) * slope.abs().max()
        assert clear.float().mean() > 0.4
        assert ((now - before).sign() == -slope.sign())[clear].all()
