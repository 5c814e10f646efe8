"""Records as the stages would leave them, with effects of known size, and a tiny ground to measure on."""

from __future__ import annotations

import numpy as np

from midstream.lens.lens import INPUT, LOGIT
from midstream.study.aftermath.condition import HIDDEN, NEAR, READ, Size, decided, layers, starts
from midstream.study.aftermath.panel import OWN
from midstream.study.refit import QUARTERS
from midstream.study.study import Ground, Text

SIZE = Size(batch=8, together=16, steps=4, probe=(32, 12), deep=60, hidden=40)
"""A quick run's, for models of width 32."""

LENSES = {"tuned": LOGIT, "input:0": INPUT, "input:1": INPUT}
RARE = 100
"""Ids from here on are in no fit document."""
HIGHEST = 300


def texts(count, first, tokens, draw, highest=90):
    """Of two each of so many works."""
    return [
        Text(first + n, f"w{first + n // 2}", tuple(draw.integers(3, highest, tokens).tolist())) for n in range(count)
    ]


def ground(model, documents=24, tokens=96, seed=0, highest=HIGHEST):
    """Random texts; what is read to fit on has no rare token."""
    draw = np.random.default_rng(seed)
    sets = {
        "fit": texts(44, 1000, 64, draw),
        "tune": texts(12, 2000, tokens, draw, highest),
        "confirm": texts(documents, 4000, tokens, draw, highest),
    }
    return Ground(model, sets, "quick", seed, LENSES)


def planted(
    model,
    *,
    read=0.0,
    own=0.0,
    hard=0.0,
    gain=0.0,
    shaky=0.02,
    back=0.0,
    after=0.0,
    steps=range(1, 5),
    documents=0.0,
    kept=0.0,
    seed=0,
):
    """A ground and its records.

    Args:
        read: what hiding i + 1 costs more for a nat of surprise; own: the same in the model's own samples; hard: what
            hiding any position costs more for it.
        gain: share of the surprise's variance that the stream adds from half depth on; shaky: how much a refit's
            share differs from it.
        back: nats by which rare tokens are likelier at their second occurrence for a nat of surprise at the first.
        kept: share of surprising positions at which a token is nearer than else.
        after: nats by which each token at ``steps`` after another is more surprising for a nat of its surprise.
        documents: spread of the documents' own levels of surprise, nats.
    """
    world = ground(model, documents=40, tokens=160, seed=seed)
    draw = np.random.default_rng([seed, 1])
    records = {
        "samples": rows(
            world.texts["confirm"],
            {"token": np.array([text.ids for text in texts(40, 4000, 160, draw, HIGHEST)], np.int32)},
        )
    }
    for name, members in (
        ("tune", world.texts["tune"]),
        ("confirm", world.texts["confirm"]),
        (OWN, _drawn(world, records)),
    ):
        records[name] = _plain(world, members, draw, (back if name != OWN else 0.0, after, steps, documents))
        records[name] |= _readings(world, records[name], draw, gain, shaky)
    for name, size in (("confirm", read), (OWN, own)):
        records[f"{name}-hidden"] = _hidden(world, records[name], (size, hard), draw, name == OWN)
        records[f"{name}-deep"] = _deep(world, records[name], draw, kept)
    return world, records


def _drawn(world, records):
    ids = records["samples"]["token"].reshape(40, -1)
    return [Text(t.number, t.work, tuple(i.tolist())) for t, i in zip(world.texts["confirm"], ids, strict=True)]


def rows(members, values):
    """As ``output.table``, without torch."""
    n, p = next(iter(values.values())).shape
    columns = {
        "document": np.repeat(np.array([text.number for text in members], np.int32), p),
        "position": np.tile(np.arange(p, dtype=np.int32), n),
    }
    return columns | {key: value.reshape(-1) for key, value in values.items()}


def _plain(world, members, draw, sizes):
    back, after, steps, documents = sizes
    ids = np.array([text.ids for text in members], np.int32)
    n, p = len(ids), ids.shape[1] - 1
    # types of their own level, works of theirs
    surprise = draw.exponential(2.0, (n, p)) + draw.normal(0, 0.3, 400)[ids[:, 1:]].clip(-0.5)
    surprise += np.repeat(draw.normal(0, 0.3, n // 2), 2)[:, None]
    surprise += documents * draw.normal(size=(n, 1))
    surprise = surprise.clip(0.01)
    alone = surprise.copy()
    if after:
        for step in steps:
            surprise[:, step:] += after * alone[:, :-step]
    if back:
        for row in range(n):
            for i in range(1, p):
                before = np.flatnonzero(ids[row, 1 : i + 1] == ids[row, i + 1])
                if ids[row, i + 1] >= RARE and len(before):
                    surprise[row, i] -= back * alone[row, before[0]]
    values = {"token": ids[:, :-1], "target": ids[:, 1:], "logprob": -surprise, "sink": np.zeros((n, p), np.int16)}
    return rows(members, values)


def _readings(world, plain, draw, gain, shaky):
    surprise = -plain["logprob"]
    noise = surprise.std() * draw.normal(size=len(surprise))
    values = {}
    mean = surprise.mean()
    for refit in range(-1, QUARTERS):
        tail = "" if refit < 0 else f", refit {refit}"
        moved = 1 + shaky * (-1) ** refit * (refit >= 0)
        values["without the stream" + tail] = np.full(len(surprise), mean)
        for layer in layers(world):
            # the best reading of the surprise beside noise of such a size that it explains the share ``gain``
            share = gain * moved * (layer >= world.model.anatomy.layers // 2)
            signal = surprise - mean + noise * np.sqrt(1 / max(share, 1e-9) - 1)
            values[f"layer {layer}{tail}"] = mean + share * signal
    return values


def _hidden(world, plain, sizes, draw, own):
    last, surprise = world.model.anatomy.layers, -plain["logprob"]
    size, hard = sizes
    every = (
        [(decided(last), which) for which in (READ, NEAR)]
        if own
        else [(start, which) for start in starts(last) for which in HIDDEN]
    )
    works = np.repeat(draw.normal(0, 0.01, 20), 2)[(plain["document"] - 4000)]
    parts = []
    for layer, which in every:
        cost = 0.05 + works + draw.normal(0, 0.05, len(surprise)) + (size * (which == READ) + hard) * surprise
        parts.append(
            {
                "document": plain["document"],
                "position": plain["position"],
                "layer": np.full(len(cost), layer, np.int32),
                "hidden": np.full(len(cost), which),
                "cost": cost,
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _deep(world, plain, draw, kept):
    parts, surprise = [], -plain["logprob"]
    high = surprise > np.quantile(surprise, 0.9)
    for layer in layers(world):
        n = len(plain["document"])
        ranks = {
            name: draw.integers(1, 50, n).astype(np.float32) for name in ("guess_rank", "token_rank", "previous_rank")
        }
        ranks["token_rank"][high & (draw.random(n) < kept)] = 1
        logprob = plain["logprob"] + (layer < world.model.anatomy.layers // 2) * draw.normal(0, 3, n)
        sizes = {name: draw.random(n) for name in ("attn_out", "mlp_out")}
        where = {"document": plain["document"], "position": plain["position"], "layer": np.full(n, layer, np.int32)}
        parts.append(where | ranks | sizes | {"guess_logprob": logprob})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
