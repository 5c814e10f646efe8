"""Prove at load that the parts found in a model, put together again, give the model's own logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from midstream.errors import ProofError
from midstream.model.addition import Tap, ratio
from midstream.model.anatomy import Anatomy, in_float32, logits
from midstream.model.families import family
from midstream.model.forward import call, seen
from midstream.model.hook import first

BOUNDS = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest relative error of the logits by the dtype of the model's blocks."""

ROUNDINGS = 4.0
"""Largest error of a sum inside a block, in units of the dtype's spacing at the size of its terms."""


@dataclass(frozen=True)
class Proof:
    """What was checked and how well it held.

    Attributes:
        error: largest over positions of ``|z - z'| / |z|``, z the model's logits and z' those put together again;
            in float32 relative to the spread of z about its mean, which a common offset cannot hide.
        bound: what the error had to stay under.
        blocks: largest error of a block's sum relative to the size of its terms.
        checked, skipped: the identities, in words; skipped ones with the reason.
    """

    error: float
    bound: float
    blocks: float
    checked: tuple[str, ...]
    skipped: tuple[str, ...]


def prove(module: nn.Module, anatomy: Anatomy, *, probe_ids: Tensor, dtype: torch.dtype) -> Proof:
    """Run the model on ``probe_ids [1, t]`` and check every piece of ``anatomy`` against it.

    Args:
        dtype: that of the model's blocks, which sets the bounds.

    Raises:
        ProofError: naming the piece that failed and by how much.
    """
    with torch.inference_mode():
        output = call(module, probe_ids, {"use_cache": False})
        own = first(getattr(output, "logits", output))
    assert own is not None
    names = [site for site in anatomy.sites if site != "resid_post"]
    starts = [Tap(block, "input") for block in anatomy.blocks]
    ends = [taps["resid_post"] for taps in anatomy.taps]
    sites = [taps[name] for taps in anatomy.taps for name in names]
    # on the CPU: some devices have no float64
    values = [v[0].cpu() for v in seen(anatomy, probe_ids, [*starts, *ends, *sites, Tap(anatomy.trunk, "output")])]
    layers = anatomy.layers
    enter, leave, hidden = values[:layers], values[layers : 2 * layers], values[-1]
    rest = iter(values[2 * layers : -1])
    parts = [{name: next(rest) for name in names} for _ in anatomy.blocks]
    epsilon, bound = torch.finfo(dtype).eps, BOUNDS[dtype]
    for number, (one, two) in enumerate(zip(leave[:-1], enter[1:], strict=True), start=1):
        _demand(
            _apart(two, one), epsilon, f"the order of the blocks: what enters block {number + 1} is not layer {number}"
        )
    blocks, checked, skipped = _blocks(anatomy, enter, leave, parts, epsilon)
    entry = _entry(anatomy, probe_ids[0], enter[0], max(bound, 4 * epsilon))
    error = _logits(anatomy, leave[-1], hidden, own[0].cpu(), bound)
    done = ["layer l is what enters block l + 1", *checked, "the unembedding of layer L is the model's logits"]
    if anatomy.positions_added:
        skipped = [*skipped, entry]
    else:
        done.append(entry)
    return Proof(error, bound, blocks, tuple(done), tuple(skipped))


def _demand(error: float, bound: float, piece: str) -> None:
    """Raise unless ``error <= bound``; an error that is not a number fails too."""
    if not error <= bound:
        raise ProofError(
            f"the proof failed at {piece}: relative error {error:.2g}, allowed {bound:.2g}. "
            "Nothing can be read from a model whose parts do not reproduce it."
        )


def _apart(a: Tensor, b: Tensor, size: Tensor | None = None) -> float:
    """Largest over rows of ``|a - b| / size``; ``size [n]`` is ``|b|`` unless given. NaN stays NaN."""
    a, b = a.double(), b.double()
    size = b.norm(dim=-1) if size is None else size
    return float(((a - b).norm(dim=-1) / size.clamp(min=1e-30)).max())


def _blocks(
    anatomy: Anatomy, enter: list[Tensor], leave: list[Tensor], parts: list[dict[str, Tensor]], epsilon: float
) -> tuple[float, list[str], list[str]]:
    """Every block's sums; returns the largest error, what was checked, what was not and why."""
    if "attn_out" not in anatomy.sites:
        return 0.0, [], [f"sums inside blocks: {family(anatomy.family).unsummed or 'no sites found'}"]
    worst, parallel = 0.0, "resid_mid" not in anatomy.sites
    for number, (start, end, part) in enumerate(zip(enter, leave, parts, strict=True), start=1):
        attention, mlp = part["attn_out"], part["mlp_out"]
        sums = {"layer l-1 + attn_out + mlp_out = resid_post": (end, start, attention, mlp)}
        if not parallel:
            middle = part["resid_mid"]
            sums = {
                "layer l-1 + attn_out = resid_mid": (middle, start, attention),
                "resid_mid + mlp_out = resid_post": (end, middle, mlp),
            }
        for words, (total, *terms) in sums.items():
            size = sum((term.double().norm(dim=-1) for term in terms), total.double().norm(dim=-1))
            error = _apart(total, sum((term.double() for term in terms), torch.zeros_like(total.double())), size)
            _demand(error, ROUNDINGS * epsilon, f"block {number}, {words}")
            worst = max(worst, error)
    words = (
        ["layer l-1 + attn_out + mlp_out = resid_post"]
        if parallel
        else [
            "layer l-1 + attn_out = resid_mid",
            "resid_mid + mlp_out = resid_post",
        ]
    )
    return worst, words, []


def _entry(anatomy: Anatomy, ids: Tensor, start: Tensor, bound: float) -> str:
    """Layer 0 against the rows of the input embedding; returns the identity, or why it was skipped, in words."""
    if anatomy.positions_added:
        return "layer 0 = input rows: a position embedding is added"
    _demand(_apart(start, anatomy.input_rows(ids).cpu()), bound, "the input embedding, its scale or its norm: layer 0")
    return "layer 0 = input rows"


def _logits(anatomy: Anatomy, last: Tensor, hidden: Tensor, own: Tensor, bound: float) -> float:
    """The relative error of the logits made from layer L; names the piece at fault where it is too large."""
    x = last.float() if anatomy.final_norm is None else in_float32(anatomy.final_norm, last)
    normed = _apart(hidden, x * ratio(hidden, x)[0])
    # in a few families the norm belongs to the head, so that the trunk ends with layer L itself
    _demand(min(normed, _apart(hidden, last)), bound, "the final norm: the trunk's output")
    own, made = own.float(), logits(anatomy, x)
    if own.shape != made.shape:
        raise ProofError(
            f"the proof failed at the unembedding: {list(made.shape)} logits, the model has {list(own.shape)}."
        )
    spread = own - own.mean(dim=-1, keepdim=True) if bound <= 1e-4 else own
    size = spread.double().norm(dim=-1)
    error = _apart(made, own, size)
    if not error <= bound:
        _demand(error, bound, _suspect(own, made, bound))
    return error


def _suspect(own: Tensor, made: Tensor, bound: float) -> str:
    """Which of the last steps explains that the logits ``[t, V]`` differ."""
    difference = own - made
    if _apart(difference, difference.mean(dim=0, keepdim=True).expand_as(difference)) <= 10 * bound:
        return "the unembedding's bias: every position's logits are off by the same vector"
    if ratio(own, made)[1] <= 10 * bound:
        return f"the logit scale: the model's logits are {ratio(own, made)[0]:.4g} times as large"
    if bool((own.argsort(dim=-1, stable=True) == made.argsort(dim=-1, stable=True)).float().mean() > 0.99):
        return "the soft cap: the logits stand in the right order but have other values"
    return "the unembedding's weight: the logits"
