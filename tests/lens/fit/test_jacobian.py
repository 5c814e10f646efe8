"""The Jacobian: exact against autograd's own, the sketch against the exact, prompts chosen, errors named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from midstream.errors import FitError, RequestError
from midstream.lens.fit import jacobian as module
from midstream.lens.fit.jacobian import (
    FIRST,
    LENGTH,
    Sketch,
    exact_jacobian,
    fit,
    order,
    output_basis,
    prompts,
    pulled,
    schedule,
)
from midstream.model.anatomy import find, in_float32, logits
from midstream.model.forward import differentiable
from midstream.model.plain import PlainConfig, PlainLM
from midstream.stream.capture import capture
from tests.tiny import shaken, tiny

N, D, L = 24, 32, 4
P = slice(FIRST, N - 1)


def model(model_type):
    if model_type.startswith("plain"):
        net = shaken(PlainLM(PlainConfig(model_type.removeprefix("plain "), 160, D, 48, L, 4, 4, 8, 64, 1e-5)))
    else:
        net = tiny(model_type)
    anatomy = find(net, net.config)
    return SimpleNamespace(module=net, anatomy=anatomy, device=torch.device("cpu"), dtype=torch.float32, context=N)


def texts(count, length=N, seed=0):
    return torch.randint(3, 160, (count, length), generator=torch.Generator().manual_seed(seed))


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def llama():
    return model("plain llama")


@pytest.fixture(scope="module")
def exact_of(llama):
    """The exact Jacobians ``[8, L, d, d]`` of eight prompts."""
    return torch.stack([exact_jacobian(llama, prompt) for prompt in texts(8)])


@pytest.mark.parametrize("model_type", ["plain llama", "plain gpt2", "llama", "gpt2", "gemma2"])
def test_exact_is_autograds_full_jacobian(model_type):
    reader, prompt = model(model_type), texts(1)
    stream = capture(reader, prompt, layers=range(L + 1))

    def tail(layer):
        """h_L summed over P, as a function of what is added at every position of P at ``layer``."""

        def function(shift):
            def see(*given):
                first = given[-1][0] if isinstance(given[-1], tuple) else given[-1]
                value = stream[layer] + torch.nn.functional.pad(shift, (0, 0, FIRST, 1))
                return (value, *given[-1][1:]) if isinstance(given[-1], tuple) else value.to(first.dtype)

            blocks, ends = reader.anatomy.blocks, []
            place = blocks[max(layer - 1, 0)]
            first = place.register_forward_hook(see) if layer else place.register_forward_pre_hook(see)
            last = blocks[-1].register_forward_hook(lambda *given: ends.append(given[-1]))
            reader.module(prompt)
            first.remove()
            last.remove()
            end = ends[0][0] if isinstance(ends[0], tuple) else ends[0]
            return end[0, P].sum(0)

        return function

    got = exact_jacobian(reader, prompt[0])
    for layer in range(L):
        whole = torch.autograd.functional.jacobian(tail(layer), torch.zeros(N - 1 - FIRST, D))  # [d, P, d]
        torch.testing.assert_close(got[layer], whole.mean(1), rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_every_direction_on_one_prompt_is_the_exact_fit(llama, exact_of):
    found = fit(llama, [texts(1)[0].tolist()], passes=10 * D)
    assert (found.prompts, found.passes) == (1, D), "a prompt can only be asked d things"
    for layer in range(L):
        torch.testing.assert_close(found.maps[layer], exact_of[0, layer], rtol=1e-4, atol=1e-4)
    exact = fit(llama, texts(2).tolist(), passes=2 * D + 5, exact=True)
    assert (exact.prompts, exact.passes, exact.method) == (2, 2 * D, "exact, float32")
    torch.testing.assert_close(torch.stack([*exact.maps.values()]), exact_of[:2].mean(0), rtol=1e-4, atol=1e-5)


def sketches(llama, passes, draws, found):
    return torch.stack([sketch_of(llama, passes, seed, found).jacobian() for seed in range(draws)])


def sketch_of(llama, passes, seed, found):
    made = Sketch.begin(llama, seed)
    for batch, share in schedule(found, passes):
        made.add(llama, batch, share)
    assert made.passes == passes
    return made


@pytest.mark.parametrize("bases", [1, 2])
def test_the_sketch_is_unbiased_and_errs_as_predicted(llama, exact_of, bases):
    draws, found, mean = 12, texts(8).repeat(1 + bases, 1)[: 8 * bases], exact_of.mean(0)
    got = sketches(llama, bases * D, draws, found)
    scatter = (exact_of - mean).square().sum((2, 3)).mean(0)
    error = (got - mean).square().sum((2, 3)).mean(0)
    torch.testing.assert_close(error, scatter / bases, rtol=0.3, atol=0.0)
    bias = (got.mean(0) - mean).square().sum((1, 2))
    assert (bias < 2 * scatter / bases / draws).all()


def test_below_d_passes_the_sketch_keeps_what_it_knows(llama, exact_of):
    share, mean = 0.25, exact_of.mean(0)
    error = (sketches(llama, int(share * D), 16, texts(8)) - mean).square().sum((2, 3)).mean(0)
    unknown, scatter = (mean - torch.eye(D)).square().sum((1, 2)), (exact_of - mean).square().sum((2, 3)).mean(0)
    torch.testing.assert_close(error, (1 - share) * unknown + share * scatter, rtol=0.2, atol=0.0)


def test_a_sketch_goes_on_where_it_stopped(llama):
    found = texts(20)
    whole = sketch_of(llama, 80, 3, found)
    part = Sketch.begin(llama, 3)
    for number, (batch, share) in enumerate(schedule(found, 80)):
        part = Sketch(part.sums.clone(), part.basis, 3, part.prompts, part.passes)
        part.add(llama, batch, share)
        assert part.prompts == 4 * (number + 1)
    assert torch.equal(whole.jacobian(), part.jacobian())


def test_rows_asked_more_often_weigh_no_more(llama):
    """40 passes for 32 rows: each row is the mean of its own answers."""
    made, prompt = sketch_of(llama, 40, 3, texts(1).repeat(10, 1)), texts(1)[0]
    torch.testing.assert_close(made.jacobian(), exact_jacobian(llama, prompt), rtol=1e-4, atol=1e-4)


def test_what_the_unembedding_does_not_see_adds_no_noise_to_what_it_sees():
    """The logits' error is that of an exact fit of the same cost, also where loud coordinates are read weakly."""
    reader = model("plain llama")
    loud = torch.where(torch.arange(D) < D // 4, 8.0, 1.0)
    with torch.no_grad():
        reader.anatomy.blocks[-1].mlp.down_proj.weight *= loud[:, None]
        reader.anatomy.unembedding.weight /= loud**2
    weight = reader.anatomy.unembedding.weight.detach() * reader.anatomy.final_norm.weight.detach()
    seen = torch.cov(weight.T, correction=0)
    exact = torch.stack([exact_jacobian(reader, prompt) for prompt in texts(8)])
    off = exact - exact.mean(0)
    scatter = (seen @ off * off).sum((2, 3)).mean(0)
    errors = sketches(reader, 2 * D, 12, texts(8).repeat(2, 1)) - exact.mean(0)
    torch.testing.assert_close((seen @ errors * errors).sum((2, 3)).mean(0), scatter / 2, rtol=0.3, atol=0.0)
    leaked = seen.trace() * off.square().sum((2, 3)).mean(0) / D
    assert (leaked > 2 * scatter).all(), "or directions drawn at random would do as well, and this tests nothing"


@pytest.mark.parametrize("model_type", ["plain llama", "gpt2", "gemma", "bloom", "no norm"])
def test_the_basis_holds_the_logits_directions_apart(model_type):
    """With an uneven gain in the final norm, and a common row in the unembedding that no probability sees."""
    net = model("plain llama" if model_type == "no norm" else model_type)
    anatomy = net.anatomy
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        anatomy.final_norm.weight.copy_(torch.logspace(-0.7, 0.7, D)[torch.randperm(D, generator=draw)])
        anatomy.unembedding.weight += torch.randn(D, generator=draw)
    if model_type == "no norm":
        anatomy = replace(anatomy, final_norm=None)
    basis = output_basis(anatomy)
    torch.testing.assert_close(basis @ basis.T, torch.eye(D), rtol=1e-5, atol=1e-5)
    points = torch.randn(800, D, generator=draw)

    def read(h):
        return logits(anatomy, h if anatomy.final_norm is None else in_float32(anatomy.final_norm, h))

    def alike(directions):
        """The largest cosine between what two directions do to the logits, and how much each does."""
        moved = [read(points + 0.01 * row) - read(points - 0.01 * row) for row in directions]
        seen = torch.stack([move - move.mean(1, keepdim=True) for move in moved]).detach().flatten(1)
        cosines = torch.nn.functional.normalize(seen) @ torch.nn.functional.normalize(seen).T
        return float(cosines.fill_diagonal_(0).abs().max()), seen.norm(dim=1)

    most, loudness = alike(basis)
    assert most < 0.15, most
    assert (loudness.diff() > -0.1 * loudness[1:]).all(), "loudest last"
    weight = anatomy.unembedding.weight.detach()
    plain = torch.linalg.eigh(weight.T @ weight)[1].T
    assert alike(plain)[0] > 1.5 * most, "neither gain nor mean matters: this tests nothing"


def test_every_row_is_asked_once_a_basis_in_another_order_each_time():
    first, again = order(D, 0, 2 * D, 5), order(D, D - 3, 6, 5)
    assert torch.equal(first[D - 3 : D + 3], again)
    for whole in first.split(D):
        assert sorted(whole.tolist()) == list(range(D))
    assert not torch.equal(first[:D], first[D:])
    assert not torch.equal(first, order(D, 0, 2 * D, 6))
    assert len(order(D, 0, 0, 5)) == 0


def test_all_layers_share_a_pass_and_parameters_get_nothing(llama):
    stream = differentiable(llama.anatomy, texts(2))
    v = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    together = pulled(stream, v)
    for row in range(2):
        alone = pulled(differentiable(llama.anatomy, texts(2)[row : row + 1]), v[row : row + 1])
        torch.testing.assert_close(together[:, row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in llama.module.parameters())


def test_dropout_is_off_inside_and_as_it_was_after():
    gpt2 = model("gpt2")
    gpt2.module.train()
    one, two = (torch.stack(differentiable(gpt2.anatomy, texts(1))) for _ in range(2))
    assert torch.equal(one, two)
    assert all(child.training for child in gpt2.module.modules())


def test_prompts_are_beginnings_first(monkeypatch):
    monkeypatch.setattr(module, "FIRST", 1)
    documents = [[1] * 9, [2] * 3, [3] * 6 + [4] * 3, [5] * 4]
    rows = prompts(documents, 10, 3)[:, 0].tolist()
    assert rows == [1, 2, 3, 5, 1, 3, 1, 4]
    read = iter(documents)
    assert prompts(read, 2, 3)[:, 0].tolist() == [1, 2]
    assert next(read) == documents[2], "no more is read than needed"


def test_passes_are_spread_over_prompts():
    def shares(count, passes):
        return [(len(batch), share) for batch, share in schedule(texts(count), passes)]

    assert shares(8, 32) == [(4, 16), (4, 16)]
    assert shares(8, 20) == [(4, 12), (4, 8)]
    assert shares(6, 24) == [(4, 16), (2, 8)]
    assert shares(8, 4) == [(4, 4)]


def test_progress_counts_passes(llama):
    for exact, last in ((True, 2 * D), (False, 2 * D)):
        told = []
        fit(llama, texts(16).tolist(), passes=2 * D, exact=exact, progress=told.append)
        assert told == sorted(told)
        assert told[-1] == last


def test_what_cannot_be_fitted_is_refused(llama):
    assert LENGTH == 128
    for given, words in (
        ({"documents": [[3] * 20], "passes": D}, "prompts of 24 tokens, and the longest document has 20"),
        ({"documents": [], "passes": D}, "longest document has 0"),
        ({"documents": texts(2).tolist(), "passes": D - 1, "exact": True}, "32 passes a prompt, 31 were given"),
        ({"documents": texts(2).tolist(), "passes": 0}, "0 passes"),
    ):
        with pytest.raises(RequestError, match=words):
            fit(llama, **given)
    short = SimpleNamespace(**{**vars(llama), "context": 17})
    with pytest.raises(RequestError, match="17 tokens is too short"):
        fit(short, texts(2).tolist(), passes=D)


def test_a_gradient_that_is_no_number_names_its_layer():
    broken = model("plain llama")
    with torch.no_grad():
        broken.anatomy.blocks[1].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(FitError, match=r"derivative of layer 4 in layer \d is no finite number in torch.float32"):
        fit(broken, texts(2).tolist(), passes=4)
