"""What is known of a token without reading the stream: its kind, how often it comes, how alone its row stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.lens.fit.back_off import Counts, back_off, predict
from midstream.lens.lens import BackOff
from midstream.model.product import full_float32, product
from midstream.model.tokenizer import Tokenizer
from midstream.record import Array
from midstream.study.study import Ground

KINDS = ("word start", "name", "continuation", "number", "punctuation", "other")

ENDS = b".!?:\"'\n*"
"""A word after one of these is capitalised for its place and is no name."""


def kind(before: bytes, own: bytes) -> str:
    """The kind of a token, one of ``KINDS``, from its bytes and those of the token before."""
    text = own.decode("utf-8", errors="ignore").strip()
    if not text:
        return "other"
    if not any(character.isalnum() for character in text):
        return "punctuation"
    if not any(character.isalpha() for character in text):
        return "number"
    joined = not own[:1].isspace() and before[-1:] and (before[-1:].isalnum() or before[-1] >= 0x80)
    if joined:
        return "continuation"
    ended = not before.strip() or before.rstrip(b" ")[-1:] in [bytes([mark]) for mark in ENDS]
    named = text[0].isupper() and text not in ("I", "A") and not ended
    return "name" if named else "word start"


def kinds(tokenizer: Tokenizer, before: Sequence[int], own: Sequence[int]) -> Array:
    """``kind`` of each token: ids ``[n]`` each -> ``[n]`` texts."""
    of = tokenizer.token_bytes
    return np.array([kind(of(a), of(b)) for a, b in zip(before, own, strict=True)])


def frequencies(ground: Ground) -> Array:
    """How often each token comes in the texts to fit on: ``[V]`` int64."""
    if "frequencies" not in ground.keep:
        ids = np.concatenate([np.array(text.ids) for text in ground.texts["fit"]])
        ground.keep["frequencies"] = np.bincount(ids, minlength=ground.model.anatomy.vocabulary)
    return ground.keep["frequencies"]


def unigram(ground: Ground) -> Array:
    """Log-probability of each token by its frequency, one added to every count: ``[V]`` float64 nats."""
    counts = frequencies(ground) + 1
    return np.log(counts / counts.sum())


def unseen(ground: Ground, share: float) -> Tensor:
    """Token types kept from a fit, drawn by the study's seed: ``[V]`` bool."""
    size = ground.model.anatomy.vocabulary
    order = np.random.default_rng([ground.seed, size]).permutation(size)
    found = torch.zeros(size, dtype=torch.bool)
    found[torch.from_numpy(order[: round(share * size)])] = True
    return found


def table(ground: Ground, lag: int) -> BackOff:
    """What most often came after the two tokens before it (lag 0), or ``lag`` tokens before a token, on fit texts."""
    made = ground.keep.setdefault("tables", {})
    if lag not in made:
        size = ground.model.anatomy.vocabulary
        counts = Counts.none(size)
        for text in ground.texts["fit"]:
            ids = torch.tensor(text.ids)
            if len(ids) <= max(lag, 2):
                continue
            if lag:
                seen = Counts.seen(size, torch.zeros_like(ids[lag:]), ids[lag:], ids[:-lag])
            else:
                seen = Counts.seen(size, ids[:-2], ids[1:-1], ids[2:])
            counts = counts.merged(seen)
        made[lag] = back_off(counts)
    return made[lag]


def guess(ground: Ground, ids: Tensor, at: Tensor, lag: int) -> Tensor:
    """The table's guess of the token ``lag`` before each position: ids ``[t]``, at ``[n]`` -> ``[n]`` ids."""
    if lag:
        return predict(table(ground, lag), torch.full_like(at, -1), ids[at])
    return predict(table(ground, 0), ids[at - 2], ids[at - 1])


def alone(ground: Ground, tokens: Tensor) -> Array:
    """Distance of each token's row to the nearest other row: ``[n]`` -> ``[n]`` float64; of equal rows 0."""
    known: dict[int, float] = ground.keep.setdefault("alone", {})
    wanted = [token for token in tokens.unique().tolist() if token not in known]
    rows = ground.model.anatomy.input_rows()
    size = rows.square().sum(1)
    with torch.inference_mode(), full_float32():
        for start in range(0, len(wanted), 256):
            part = torch.tensor(wanted[start : start + 256])
            distance = size[part, None] + size - 2 * product(rows[part], rows)
            distance[torch.arange(len(part)), part] = torch.inf
            near = distance.amin(1).clamp(min=0).sqrt()
            known |= dict(zip(part.tolist(), near.tolist(), strict=True))
    return np.array([known[token] for token in tokens.tolist()])
