"""Anchoring: once the next token is known, the stream behind it is moved towards it, and what follows sees that.

nostalgebraist's proposal in the discussion of *interpreting GPT: the logit lens* (2020): a model that guessed wrong at
position i goes on attending to a stream that holds its wrong guess; so, when the token at i + 1 has come, move the late
stream at i towards that token. Position i's own prediction was made before; its keys and values in later blocks come
from the moved stream, and all later positions see those.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.anatomy import Anatomy
from midstream.model.forward import Sight, new_cache, rewind, rewindable, skipped
from midstream.model.model import Model
from midstream.stream.capture import capture_sites
from midstream.stream.change import Interpolate, Replace
from midstream.stream.edit import Edit
from midstream.stream.site import Place


@dataclass(frozen=True, eq=False)
class Anchor:
    """How the stream at i is moved towards the token at i + 1: ``stream.change.Interpolate``, at ``resid_post``.

    Attributes:
        layer: l0, 1 to L - 1; blocks l0 + 1 to L run again from the moved stream.
        alpha: strength, 0 to 1.
        rows: what to move towards: token ids ``[n]`` -> vectors ``[n, d]``, such as ``Anatomy.input_rows``.
        name: what ``rows`` is, for the record.
        keep_norm: the moved stream keeps its length.
        every_layer: it is moved again after every later block but the last.
        surprise: only where the token that came had at most this log-probability, ``-log p > surprise`` in nats, in the
            model's own prediction at i; 0: everywhere.
    """

    layer: int
    alpha: float
    rows: Callable[[Tensor], Tensor]
    name: str = "embedding"
    keep_norm: bool = True
    every_layer: bool = False
    surprise: float = 0.0

    def edits(self, anatomy: Anatomy, tokens: Tensor, chosen: Tensor, positions: tuple[int, ...]) -> list[Edit]:
        """The edit that moves the stream at ``positions`` towards ``tokens`` ``[b, m]``, where ``chosen`` ``[b, m]``.

        Nothing where nothing is chosen.
        """
        if not bool(chosen.any()) or self.alpha == 0.0:
            return []
        vectors = self.rows(tokens.flatten()).reshape(*tokens.shape, -1)
        what = Interpolate(vectors, self.alpha * chosen.to(vectors.device, torch.float32), self.keep_norm)
        layers = tuple(range(self.layer, anatomy.layers)) if self.every_layer else (self.layer,)
        return [Edit("resid_post", layers, positions, what)]


def check(model: Model, anchor: Anchor) -> None:
    """Raise RequestError for a layer or strength that the model cannot be anchored at."""
    last = model.anatomy.layers
    if not 1 <= anchor.layer < last:
        raise RequestError(
            f"the anchor starts at layer {anchor.layer}: expected 1 to {last - 1}; layer 0 is the input itself, and "
            f"after layer {last} no block runs again."
        )
    if not 0 <= anchor.alpha <= 1:
        raise RequestError(f"the anchor's strength is {anchor.alpha}: expected 0 (no change) to 1 (the vector itself).")


def anchored_loop(
    model: Model, ids: Tensor, anchor: Anchor, chosen: Tensor, wanted: list[Place]
) -> dict[Place, Tensor]:
    """The stream that makes each position's own prediction, earlier ones anchored, token by token as in generation.

    Args:
        ids: ``[b, t]`` int64 without padding, on the model's device.
        chosen: ``[b, t]`` bool, the positions that are anchored once the next token is known; the last has none.

    Returns:
        place -> ``[b, t, d]``.

    Raises:
        RequestError: for an anchor that does not fit, or a family whose cache cannot be taken back.
    """
    check(model, anchor)
    cache = cache_of(model)
    rows: dict[Place, list[Tensor]] = {place: [] for place in wanted}
    for i in range(ids.shape[1]):
        # the position before, as it must be kept, and this one, as it predicts; the second is then taken back
        start = max(i - 1, 0)
        edits = anchor.edits(model.anatomy, ids[:, i : i + 1], chosen[:, start : start + 1], (0,)) if i else []
        stream = capture_sites(model, ids[:, start : i + 1], wanted, cache=cache, edits=edits)
        for place, h in stream.items():
            rows[place].append(h[:, -1])
        rewind(cache, 1)
    return {place: torch.stack(parts, dim=1) for place, parts in rows.items()}


def cache_of(model: Model) -> object:
    """An empty cache that positions can be taken out of again. Raises RequestError, by name, where there is none."""
    cache = new_cache(model.module, model.anatomy)
    if cache is None or not rewindable(cache):
        why = "it has no standard cache" if cache is None else "its cache holds states that cannot be taken back"
        raise RequestError(f"a {model.anatomy.family} model cannot be anchored: {why}.")
    return cache


def anchored(model: Model, ids: Tensor, anchor: Anchor, chosen: Tensor, wanted: list[Place]) -> dict[Place, Tensor]:
    """As ``anchored_loop``, by one pass over the text twice: a copy that is moved, and beside it one that predicts.

    A moved position sees the moved ones up to itself; a predicting one sees the moved ones before it, and itself. The
    text must fit a sliding window. Use it where ``parallel`` says so.
    """
    check(model, anchor)
    t = ids.shape[1]
    target = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
    chosen = chosen.clone()
    chosen[:, -1] = False
    edits = anchor.edits(model.anatomy, target, chosen, tuple(range(t)))
    stream = capture_sites(model, torch.cat([ids, ids], dim=1), wanted, mask=doubled(t, ids.device), edits=edits)
    return {place: h[:, t:] for place, h in stream.items()}


def resumed(
    model: Model, ids: Tensor, layer: int, streams: tuple[Tensor, Tensor], wanted: list[Place], *, skip: bool
) -> dict[Place, Tensor]:
    """As ``anchored``, for a text whose stream at ``layer`` is known: any move of it, and only the blocks above it run.

    Args:
        streams: ``[b, t, d]`` each, at ``resid_post`` of ``layer``: what later positions see, and the stream as it is,
            from which each position makes its own prediction.
        skip: leave the blocks below out; they run for nothing otherwise. Ask ``skips`` once.
    """
    t = ids.shape[1]
    start = Edit("resid_post", (layer,), None, Replace(torch.cat(streams, dim=1)))
    with skipped(model.anatomy, layer) if skip else nullcontext():
        stream = capture_sites(model, torch.cat([ids, ids], dim=1), wanted, mask=doubled(t, ids.device), edits=[start])
    return {place: h[:, t:] for place, h in stream.items()}


def skips(model: Model) -> bool:
    """Whether a short text gives the same output when its pass is begun in the middle."""
    last = (model.anatomy.layers, "resid_post")
    layer = model.anatomy.layers // 2
    if not layer:
        return False
    ids = torch.arange(6, device=model.device)[None] % model.anatomy.vocabulary
    whole = capture_sites(model, ids, [(layer, "resid_post"), last])
    h = whole[layer, "resid_post"]
    try:
        found = resumed(model, ids, layer, (h, h), [last], skip=True)[last]
    except Exception:  # whatever a family's own code raises for blocks that give what it did not expect
        return False
    error = float((found.float() - whole[last].float()).norm() / whole[last].float().norm())
    return error < (1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05)


def doubled(t: int, device: torch.device) -> Sight:
    """Who sees whom where a text of t tokens stands twice: copies that are moved, and copies that predict."""
    earlier = torch.ones(t, t, dtype=torch.bool).tril(-1)
    own = torch.eye(t, dtype=torch.bool)
    none = torch.zeros(t, t, dtype=torch.bool)
    seen = torch.cat([torch.cat([earlier | own, none], dim=1), torch.cat([earlier, own], dim=1)])
    return Sight(seen.to(device), torch.arange(t, device=device).repeat(2)[None])


def parallel(model: Model, anchor: Anchor, tokens: int) -> str:
    """Why texts of so many tokens cannot be anchored in parallel; empty where a short one shows it equal to the loop.

    Families with ALiBi and others that do not go by a mask of our own fail that trial, and are named.
    """
    window = getattr(getattr(model.module, "config", None), "sliding_window", None)
    if isinstance(window, int) and 0 < window < tokens:
        return f"a text of {tokens} tokens is longer than the model's sliding window of {window}: the loop is used"
    generator = torch.Generator().manual_seed(0)
    t = min(12, model.context, window or 12)
    ids = torch.randint(0, model.anatomy.vocabulary, (1, t), generator=generator).to(model.device)
    chosen = torch.ones(1, t, dtype=torch.bool)
    chosen[:, 0] = False
    last = [(model.anatomy.layers, "resid_post")]
    probe = Anchor(anchor.layer, 0.5, model.anatomy.input_rows)
    one = anchored_loop(model, ids, probe, chosen, last)[last[0]].float()
    try:
        other = anchored(model, ids, probe, chosen, last)[last[0]].float()
    except Exception as error:  # whatever a family's own code raises for a mask that it did not expect
        return f"a {model.anatomy.family} model takes no mask of its own ({type(error).__name__}): the loop is used"
    error = float((one - other).norm() / one.norm())
    if error < (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1):
        return ""
    return f"a {model.anatomy.family} model goes by no mask of its own (relative error {error:.1g}): the loop is used"
