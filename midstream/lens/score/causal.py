"""The causal score: whether moving the stream as a lens reads it moves the model's output as the lens says.

At the last position of a prefix, h of one layer is moved by ``STEP |h|`` along ``u_t = dz_t / dh`` taken through the
lens (transport, norm, row t of the unembedding), for 10 tokens t of the lens's top and 10 drawn by frequency; then the
rest of the model runs. The score is the Spearman correlation over these 20 tokens between the lens's and the model's
change of log p(t), and the model's mean change beside that for random directions of equal length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.lens import Lens
from midstream.lens.read.direction import direction
from midstream.model.forward import expanded, new_cache
from midstream.model.linear import FastLinear
from midstream.model.model import Model
from midstream.readout.read import Rows, read
from midstream.readout.reader import Reader, output_reader
from midstream.record import Array
from midstream.stream.capture import capture_sites
from midstream.stream.change import Add
from midstream.stream.edit import Edit

PREFIX = 64
"""Tokens in a prefix; all but the last lie in the cache."""
TOP, DRAWN = 10, 10
"""Tokens from the lens's top, and tokens drawn by frequency."""
STEP = 0.1
"""Length of a move, as a share of the length of h."""
LAYERS, PREFIXES = 8, 40
"""How many layers and prefixes (one a document) are scored by default."""
_ROWS = 64
"""Variants of the last token that run at once."""


@dataclass(frozen=True, eq=False)
class CausalScore:
    """One entry a prefix and layer, ``[prefixes, layers]``; undefined is NaN.

    Attributes:
        layers: ``[layers]``.
        correlation: Spearman, lens against model, over the tokens.
        lens_change: the lens's mean change of log p(t), nats.
        model_change: the model's, nats.
        random_change: the model's mean change of log p(t) over the same tokens and as many random directions, nats.
    """

    layers: tuple[int, ...]
    correlation: Array
    lens_change: Array
    model_change: Array
    random_change: Array

    @property
    def excess(self) -> Array:
        """``model_change - random_change``, nats: what the direction does beyond its length."""
        return self.model_change - self.random_change


@dataclass(frozen=True, eq=False)
class _Moves:
    """The moves of one layer: ``delta`` ``[2 T, d]``, T along the tokens' directions and T at random."""

    layer: int
    tokens: Tensor
    delta: Tensor
    lens_change: Array


def suits(lens: Lens) -> bool:
    """Whether a lens has a causal score: it reads the next token from the stream."""
    return lens.reader == "output" and lens.offset == 1 and lens.source == "stream"


def spread(model: Model, lens: Lens, count: int = LAYERS) -> tuple[int, ...]:
    """That many layers below the last, evenly spread over those that the lens reads."""
    site = lens.site or "resid_post"
    first = 0 if site == "resid_post" else 1
    layers = [layer for layer in range(first, model.anatomy.layers) if lens.reads(layer, site)]
    at = np.linspace(0, len(layers) - 1, min(count, len(layers))).round().astype(int)
    return tuple(layers[i] for i in dict.fromkeys(at.tolist()))


def causal(
    model: Model,
    lens: Lens,
    texts: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> CausalScore:
    """The causal score of an output lens about the next token.

    Args:
        texts: token ids of prefixes; the tokens drawn are drawn by their frequency in these.
        layers: below the last; None: ``spread``.
        seed: of the tokens drawn and the random directions.
        progress: called with the number of prefixes done.

    Raises:
        RequestError: for a lens of another kind, a layer it does not read, or too few prefixes to draw tokens from.
    """
    if not suits(lens):
        raise RequestError(
            f"{lens.name} has no causal score: expected a lens that reads the next token from the stream."
        )
    chosen = tuple(spread(model, lens) if layers is None else layers)
    _check(model, lens, chosen)
    counts = torch.zeros(model.anatomy.vocabulary, dtype=torch.float64)
    for ids in texts:
        counts += torch.bincount(torch.tensor(ids), minlength=len(counts))
    if not texts or int((counts > 0).sum()) < TOP + DRAWN:
        raise RequestError(
            f"the causal score draws {DRAWN} tokens by their frequency, and {len(texts)} prefixes hold "
            f"{int((counts > 0).sum())} different ones: give it longer or more documents."
        )
    score = _Score(model, lens, output_reader(model.anatomy), torch.Generator().manual_seed(seed), counts)
    entries: list[Array] = []
    for number, ids in enumerate(texts, start=1):
        with FastLinear():
            entries.append(score.prefix(torch.tensor(ids, device=model.device), chosen))
        if progress is not None:
            progress(number)
    return CausalScore(chosen, *np.stack(entries).transpose(2, 0, 1))


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN where one side is constant or not all numbers."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    x, y = (_ranks(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def _ranks(values: Array) -> Array:
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def _check(model: Model, lens: Lens, layers: tuple[int, ...]) -> None:
    site = lens.site or "resid_post"
    outside = [layer for layer in layers if not lens.reads(layer, site) or layer >= model.anatomy.layers]
    if outside or not layers:
        where = f"at layer {outside[0]}" if outside else "without a layer"
        raise RequestError(
            f"{lens.name} has no causal score {where}: expected layers below {model.anatomy.layers} that it reads."
        )


@dataclass(frozen=True, eq=False)
class _Score:
    """What all prefixes share. ``counts`` ``[V]``: how often each token occurs."""

    model: Model
    lens: Lens
    reader: Reader
    generator: torch.Generator
    counts: Tensor

    def prefix(self, ids: Tensor, layers: tuple[int, ...]) -> Array:
        """``[layers, 4]``: the entries of one prefix, in the order of ``CausalScore``."""
        site, last = self.lens.site or "resid_post", self.model.anatomy.layers
        final = (last, "resid_post")
        cache = new_cache(self.model.module, self.model.anatomy)
        if cache is not None:
            capture_sites(self.model, ids[None, :-1], [], cache=cache)
            cache = None if expanded(cache, 1) is None else cache
        stream = self._last(ids, cache, [*((layer, site) for layer in layers), final])
        moves = [self._moves(layer, stream[layer, site][0]) for layer in layers]
        deltas = torch.cat([move.delta for move in moves])
        tokens = torch.cat([move.tokens.expand(len(move.delta), -1) for move in moves])
        moved = self._moved(ids, cache, torch.tensor([move.layer for move in moves]), deltas)
        after = self._logprobs(moved, tokens).reshape(len(layers), 2, -1, tokens.shape[1])
        before = self._logprobs(stream[final].expand(len(layers), -1), torch.stack([move.tokens for move in moves]))
        change = after - before[:, None, None]  # [layers, towards tokens or random, direction, token]
        own = change[:, 0].diagonal(axis1=1, axis2=2)
        correlation = [spearman(move.lens_change, real) for move, real in zip(moves, own, strict=True)]
        lens_change = [move.lens_change.mean() for move in moves]
        return np.stack([correlation, lens_change, own.mean(1), change[:, 1].mean((1, 2))], axis=1)

    def _moves(self, layer: int, h: Tensor) -> _Moves:
        """The tokens and directions of one layer, and what the lens says the moves do; h ``[d]``."""
        h = h.float()
        tokens = self._tokens(layer, h)
        towards = direction(self.reader, self.lens, layer, h.expand(len(tokens), -1), tokens)
        noise = torch.randn(len(tokens), len(h), generator=self.generator).to(h.device)
        length = STEP * h.norm()
        delta = torch.cat([length * way / way.norm(dim=1, keepdim=True) for way in (towards, noise)])
        rows = self.lens.transport(layer, torch.cat([h[None], h + delta[: len(tokens)]]))
        logprobs = self._logprobs(rows, tokens.expand(len(rows), -1))
        return _Moves(layer, tokens, delta, logprobs[1:].diagonal() - logprobs[0])

    def _tokens(self, layer: int, h: Tensor) -> Tensor:
        """``[T]`` int64: the lens's best, then others drawn by frequency without replacement."""
        none = torch.full((1, 0), -1)
        row = Rows(self.reader.prepare(self.lens.transport(layer, h[None])), none)
        top = torch.from_numpy(read(self.reader, [row], reference=None, top_k=TOP)[0].top_ids[0]).long()
        others = self.counts.index_fill(0, top, 0.0)
        return torch.cat([top, torch.multinomial(others, DRAWN, generator=self.generator)])

    def _last(self, ids: Tensor, cache: object | None, wanted: list[tuple[int, str]]) -> dict[tuple[int, str], Tensor]:
        """The stream at the last position, ``[1, d]`` each, nothing moved."""
        own = None if cache is None else expanded(cache, 1)
        new = ids[None] if cache is None else ids[None, -1:]
        return {place: h[:, -1] for place, h in capture_sites(self.model, new, wanted, cache=own).items()}

    def _moved(self, ids: Tensor, cache: object | None, layers: Tensor, deltas: Tensor) -> Tensor:
        """``[rows, d]``: h_L at the last position for every move; each layer has an equal share of the rows."""
        site, final = self.lens.site or "resid_post", (self.model.anatomy.layers, "resid_post")
        layer_of = layers.repeat_interleave(len(deltas) // len(layers))
        found: list[Tensor] = []
        for start in range(0, len(deltas), _ROWS):
            delta, here = deltas[start : start + _ROWS], layer_of[start : start + _ROWS, None].to(deltas.device)
            edits = [
                Edit(site, (layer,), (-1,), Add(torch.where(here == layer, delta, 0.0)[:, None]))
                for layer in dict.fromkeys(here[:, 0].tolist())
            ]
            own = None if cache is None else expanded(cache, len(delta))
            new = (ids if cache is None else ids[-1:]).expand(len(delta), -1)
            stream = capture_sites(self.model, new, [final], cache=own, edits=edits)
            found.append(stream[final][:, -1])
        return torch.cat(found)

    def _logprobs(self, h: Tensor, tokens: Tensor) -> Array:
        """log p of tokens ``[rows, T]``, nats float64, read from rows that a transport has moved or that are h_L."""
        rows = Rows(self.reader.prepare(h), tokens)
        return read(self.reader, [rows], reference=None, top_k=1)[0].logprob.astype(np.float64)
