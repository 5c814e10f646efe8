"""What is measured: texts as they are, and with the stream moved; log-probabilities of the next token, nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.fit.sums import Batch, Key
from midstream.lens.lens import Transport
from midstream.sample.anchor import Anchor, parallel, resumed, skips
from midstream.stream.capture import capture
from midstream.stream.change import Interpolate
from midstream.stream.vector import sinks
from midstream.study.anchoring.condition import (
    GUESS,
    OWN,
    RANDOM,
    ROTATED,
    TRUE,
    Condition,
    fitted,
    layers,
)
from midstream.study.displace import angle, rotation, turned
from midstream.study.output import ids_of, logprobs, table
from midstream.study.refit import RIDGE
from midstream.study.refit import fitted as refit_maps
from midstream.study.study import Columns, Ground, Text


def check(ground: Ground) -> None:
    """Raise RequestError for a model that the study cannot be asked of."""
    model = ground.model
    if model.anatomy.layers < 2:
        raise RequestError(f"{model.name} has {model.anatomy.layers} block: anchoring needs two or more.")
    longest = max(len(text.ids) for text in ground.texts["confirm"])
    if longest > model.context:
        raise RequestError(f"{model.name} reads {model.context} tokens: the study's texts have {longest}.")
    if (works := len({text.work for text in ground.texts["fit"]})) < RIDGE:
        raise RequestError(f"there are {works} works to fit maps on: expected {RIDGE} or more; give a larger corpus.")
    probe = Anchor(layers(model.anatomy.layers)[0], 0.5, model.anatomy.input_rows)
    if why := parallel(model, probe, longest):
        raise RequestError(f"{model.name} cannot be studied here: {why}, and that is too slow for a study.")


def plain(ground: Ground, texts: Sequence[Text]) -> Columns:
    """The texts as they are: tokens, log-probability of each next one, sinks at any layer where streams are moved."""
    ids = ids_of(ground, texts)
    last = ground.model.anatomy.layers
    stream = capture(ground.model, ids, layers=[*layers(last), last])
    logprob, _ = logprobs(ground, stream[last][:, :-1], ids[:, 1:])
    tokens = ids.cpu().numpy().astype(np.int32)
    sunk = torch.stack([sinks(stream[layer]) for layer in layers(last)]).any(0)[:, :-1].cpu().numpy()
    named = {"token": tokens[:, :-1], "target": tokens[:, 1:], "logprob": logprob, "sink": sunk.astype(np.int16)}
    return table(texts, named)


def moved(ground: Ground, texts: Sequence[Text], conditions: Sequence[Condition], threshold: float) -> Columns:
    """The texts under conditions that all move the stream after one layer.

    Args:
        threshold: surprise, nats, from which on the rule ``surprise`` moves.
    """
    (layer,) = {condition.layer for condition in conditions}
    model, last = ground.model, (ground.model.anatomy.layers, "resid_post")
    ids = ids_of(ground, texts)
    plain = capture(model, ids, layers=[layer, last[0]])
    h = plain[layer].float()
    surprise, guess = logprobs(ground, plain[last[0]][:, :-1], ids[:, 1:])
    tokens = {TRUE: ids[:, 1:], OWN: ids[:, :-1], GUESS: torch.from_numpy(guess).to(ids)}
    tokens |= {ROTATED: tokens[TRUE], RANDOM: _random(ground, texts, ids)}
    skip = ground.keep.setdefault("skips", skips(model))
    found: list[Columns] = []
    for condition in conditions:
        where = torch.ones(ids.shape, dtype=torch.bool) if condition.sinks else ~sinks(h).cpu()
        if condition.rule == "surprise":
            where[:, :-1] &= torch.from_numpy(-surprise > threshold)
        at = moves(ground, h[:, :-1], condition, tokens)
        stream = torch.where(where[:, :-1, None].to(h.device), at, h[:, :-1])
        stream = torch.cat([stream, h[:, -1:]], dim=1)
        final = resumed(model, ids, layer, (stream, plain[layer].float()), [last], skip=skip)[last]
        logprob, _ = logprobs(ground, final[:, :-1], ids[:, 1:])
        names = np.full(logprob.shape, condition.name)
        found.append(table(texts, {"condition": names, "logprob": logprob}))
    return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}


def moves(ground: Ground, h: Tensor, condition: Condition, tokens: dict[str, Tensor]) -> Tensor:
    """Where each position goes, ``[b, p, d]``: by the angle of the true token's interpolation, towards the token's."""
    v = vectors(ground, condition, tokens[condition.token])
    if condition.token == TRUE:
        return Interpolate(v, condition.strength).apply(h)
    if condition.token == ROTATED:
        v = v @ ground.keep.setdefault("rotation", rotation(h.shape[-1], ground.seed)).T.to(v.device)
    true = vectors(ground, condition, tokens[TRUE])
    return turned(h, v, angle(h, Interpolate(true, condition.strength).apply(h)))


def vectors(ground: Ground, condition: Condition, tokens: Tensor) -> Tensor:
    """The vector of each token, ``[b, p, d]`` float32."""
    anatomy, flat = ground.model.anatomy, tokens.flatten()
    if condition.vector == "unembedding":
        rows = anatomy.output_rows(flat)
    else:
        rows = anatomy.input_rows(flat)
    if fitted(condition):
        rows = maps(ground)[condition.vector == "expected", condition.layer, condition.refit](rows)
    return rows.reshape(*tokens.shape, -1)


def _random(ground: Ground, texts: Sequence[Text], ids: Tensor) -> Tensor:
    """Tokens drawn from all that the text's set holds, by each text's own generator, none of them the true one."""
    drawn = torch.empty_like(ids[:, 1:])
    for row, text in enumerate(texts):
        own = next(name for name, members in ground.texts.items() if any(text is member for member in members))
        pool = ground.keep.setdefault(f"pool {own}", np.array([i for member in ground.texts[own] for i in member.ids]))
        draw = np.random.default_rng([ground.seed, text.number])
        true = np.array(text.ids[1:])
        found = draw.choice(pool, len(true))
        for _ in range(20):
            same = found == true
            found[same] = draw.choice(pool, int(same.sum()))
        drawn[row] = torch.from_numpy(found)
    return drawn


def maps(ground: Ground) -> dict[tuple[bool, int, int], Transport]:
    """Least squares from a token's input row to the stream at each layer: (comes next, layer, refit) -> map."""
    return {
        (bool(key[1]), int(target.partition(":")[2]), refit - 1): one.transport
        for refit, found in enumerate(refit_maps(ground, "maps", lambda texts: _rows(ground, texts)))
        for (key, target), one in found.items()
    }


def _rows(ground: Ground, texts: Sequence[Text]) -> Iterator[Batch]:
    """Positions of some texts: rows of the token read and of the one that comes next, and the stream there."""
    rows, places = ground.model.anatomy.input_rows, layers(ground.model.anatomy.layers)
    for start in range(0, len(texts), 8):
        ids = ids_of(ground, texts[start : start + 8])
        stream = capture(ground.model, ids, layers=places)
        kept = torch.stack([~sinks(h) for h in stream.values()]).all(0)[:, :-1]
        kept[:, :4] = False
        x: dict[Key, Tensor] = {("token", 0): rows(ids[:, :-1][kept]), ("token", 1): rows(ids[:, 1:][kept])}
        yield x, {f"layer:{layer}": h[:, :-1][kept].float() for layer, h in stream.items()}, None
