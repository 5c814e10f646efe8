"""Activation patching: one run's stream put into another's, place by place, and what it does to a token at the end.

A text is run with the stream of another text put in at one layer and position; the effect is the change of the chosen
token's log-probability at the last position (Meng et al. 2022; Zhang and Nanda 2024). Beside it stands the same patch
from an unrelated text: what any foreign stream would do there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.read.request import Request, request
from midstream.model.load import PROBE
from midstream.model.model import Model
from midstream.readout.read import Rows, read
from midstream.readout.reader import Reader, output_reader
from midstream.record import Array, PatchTable
from midstream.run.edit_vector import Places, Setting, listed, rows_of, whole
from midstream.run.provenance import provenance
from midstream.stream.capture import capture_sites
from midstream.stream.change import Replace, SetCoordinates, What
from midstream.stream.edit import Edit
from midstream.stream.site import Place

ROWS = 32
"""Patched copies of the text that run at once."""

SAME = 0.01
"""Nats by which the two texts must differ for a share of the difference to mean something."""


@dataclass(frozen=True, eq=False)
class Patching:
    """What is patched.

    Attributes:
        text, source, control: token ids ``[t]`` of the text, of the one whose stream is put in, of an unrelated one.
        token: id of the chosen token.
        layers, site: where.
        along: layer -> ``[k, d]``: only the part of the stream in the span of these rows is put in; None: all of it.
    """

    text: Sequence[int]
    source: Sequence[int]
    control: Sequence[int]
    token: int
    layers: tuple[int, ...]
    site: str = "resid_post"
    along: dict[int, Tensor] | None = None


def unrelated(model: Model, tokens: int) -> list[int]:
    """Token ids of a text that has nothing to do with any other: the probe text, over and over."""
    ids = model.tokenizer.encode(PROBE).ids  # with what the tokenizer puts first, once
    more = model.tokenizer.encode(PROBE, added=False).ids
    return (ids + more * (tokens // len(more) + 1))[:tokens]


def patching(model: Model, given: Patching, asked: Request, command: str) -> PatchTable:
    """The effect of every patch. ``asked`` and ``command`` are for the provenance.

    Raises:
        RequestError: for texts of unequal length, layers or a site that are not there.
    """
    lengths = {len(given.text), len(given.source), len(given.control)}
    if len(lengths) > 1:
        raise RequestError(
            f"the texts have {len(given.text)}, {len(given.source)} and {len(given.control)} tokens (text, other, "
            "control): expected equal numbers, so that each position has one to take its stream from; reword one."
        )
    reader = output_reader(model.anatomy)
    final: Place = (model.anatomy.layers, "resid_post")
    places: list[Place] = [(layer, given.site) for layer in given.layers]

    plain, source, control = (
        capture_sites(model, whole(model, ids, name), [*places, final])
        for ids, name in ((given.text, "text"), (given.source, "other text"), (given.control, "control"))
    )
    unpatched, there = (_logprobs(reader, h[final][:, -1], given.token)[0] for h in (plain, source))
    effect, other = (
        np.concatenate([_effects(model, reader, given, place, h[place]) for place in places]) - unpatched
        for h in (source, control)
    )
    t = len(given.text)
    words = [[model.tokenizer.token(token) for token in ids] * len(places) for ids in (given.text, given.source)]
    gap = there - unpatched
    columns: dict[str, Array] = {
        "layer": np.repeat(np.array(given.layers, np.int16), t),
        "site": np.full(t * len(places), given.site, object),
        "position": np.tile(np.arange(t, dtype=np.int32), len(places)),
        "token": np.array(words[0], object),
        "source_token": np.array(words[1], object),
        "logprob": (effect + unpatched).astype(np.float32),
        "effect": effect.astype(np.float32),
        "share": (effect / gap if abs(gap) >= SAME else np.full_like(effect, np.nan)).astype(np.float32),
        "control": other.astype(np.float32),
    }
    stamp = provenance(model, asked, given.text, command)
    stamp = replace(stamp, settings={"source": [*given.source], "control": [*given.control], "token": given.token})
    chosen = model.tokenizer.token(given.token)
    return PatchTable(columns, chosen, float(unpatched), float(there), stamp, model.anatomy.layers)


def _effects(model: Model, reader: Reader, given: Patching, place: Place, h: Tensor) -> Array:
    """``[t]`` log-probability with the stream ``h`` ``[1, t, d]`` put in at one position of ``place`` at a time."""
    layer, site = place
    final: Place = (model.anatomy.layers, "resid_post")
    ids = torch.tensor(given.text, device=model.device)
    found: list[Array] = []
    for start in range(0, len(ids), ROWS):
        at = range(start, min(start + ROWS, len(ids)))
        edits = [
            Edit(site, (layer,), (position,), _what(given, layer, h[:, position : position + 1]), (row,))
            for row, position in enumerate(at)
        ]
        stream = capture_sites(model, ids.expand(len(at), -1), [final], edits=edits)
        found.append(_logprobs(reader, stream[final][:, -1], given.token))
    return np.concatenate(found)


def _what(given: Patching, layer: int, h: Tensor) -> What:
    if given.along is None:
        return Replace(h)
    rows = given.along[layer].to(h.device)
    return SetCoordinates(rows, h.float() @ rows.T)


def _logprobs(reader: Reader, h: Tensor, token: int) -> Array:
    """log p of the token from rows of the last layer: ``[n, d]`` -> ``[n]`` float64, nats."""
    tokens = torch.full((len(h), 1), token)
    rows = Rows(reader.prepare(h), tokens)
    return read(reader, [rows], reference=None, top_k=1)[0].logprob[:, 0].astype(np.float64)


@dataclass(frozen=True)
class PatchOptions:
    """What a user may ask of a patching.

    Attributes:
        layers: to patch at; None: all. every: keep every k-th of them, counted back from the last.
        along: tokens' vectors, ``SOURCE:TOKEN|TOKEN`` as in an edit; None: the whole stream is put in.
        control: an unrelated text of as many tokens; None: ``unrelated``.
    """

    layers: Sequence[int] | None = None
    every: int = 1
    site: str = "resid_post"
    along: str | None = None
    control: str | None = None


def patch_texts(model: Model, text: str, other: str, token: str, options: PatchOptions, *, command: str) -> PatchTable:
    """The patching of one text with another's stream, and its effect on a token that is a text.

    Raises:
        RequestError: as ``patching``, and for a token that is none, or vectors that depend on each other.
    """
    texts = [model.tokenizer.encode(one).ids for one in (text, other)]
    if min(map(len, texts)) < 2:
        raise RequestError("a text to patch is empty or one token: expected two or more.")
    chosen = model.tokenizer.single(token)
    site: str | None = options.site if options.site != "resid_post" else None
    asked = request(model, {"layers": options.layers, "every": options.every, "site": site, "lens": "logit"})
    control = (
        unrelated(model, len(texts[0])) if options.control is None else model.tokenizer.encode(options.control).ids
    )
    along = None
    if options.along is not None:
        places = Places(asked.layers, None, options.site)
        along = rows_of(Setting(model, texts[0]), places, listed(options.along))
    given = Patching(texts[0], texts[1], control, chosen, asked.layers, options.site, along)
    return patching(model, given, asked, command)
