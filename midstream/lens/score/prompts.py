"""pass@k: does a lens surface, at some layer, the words that a prompt only implies?

A prompt is read at its last token (Gurnee et al. 2026). The rank of an intermediate is the best over layers and over
its single-token forms; an item's pass@k is the share of its intermediates whose rank is at most k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from midstream.errors import RequestError
from midstream.interval import paired_ratio, ratio
from midstream.lens.lens import LOGIT, Lens
from midstream.lens.read.reading import Readers
from midstream.lens.read.request import START, Request
from midstream.lens.score.estimates import ALL_LAYERS, Scored
from midstream.lens.score.prompt_file import Item
from midstream.model.model import Model
from midstream.readout.rank import ranks
from midstream.readout.reader import Reader
from midstream.record import Array, Estimate
from midstream.stream.capture import capture_sites

DRAWS = 200
"""Permutations that pass@k is compared with."""

KS = (1, 5, 10)
"""The k of pass@k."""

BATCH = 16
"""Prompts of equal length that are run together."""

KNOWN = 10
"""An item counts as known where the model's own output ranks its target so high or higher."""


@dataclass(frozen=True, eq=False)
class PromptScores:
    """What lenses make of the items of one file, those kept that have an intermediate with a single-token form.

    Attributes:
        items, intermediates: how many the file has.
        kept: ``[n]`` int64, the items that count.
        readable: intermediates that have a single-token form.
        best: lens name -> ``[n, q]`` int32, the best rank over layers and forms of every readable intermediate of the
            file (columns) at every kept item's prompt (rows); -1 where the reading is not finite.
        owner: ``[q]`` int64, the row of the item that each intermediate belongs to.
        known: ``[n]`` bool, whether the model ranks the item's target in its top 10; None where no item has a target.
    """

    items: int
    intermediates: int
    kept: Array
    readable: int
    best: Mapping[str, Array]
    owner: Array
    known: Array | None

    def passed(self, lens: str, k: int) -> Array:
        """``[n, n]`` float64: at item a's prompt (row), the share of item b's intermediates (column) ranked <= k.

        The diagonal is pass@k by item. A row without finite readings is NaN.
        """
        best = self.best[lens]
        hits = np.where(best < 0, np.nan, best <= k)
        totals = np.zeros((len(best), len(best)))
        np.add.at(totals.T, self.owner, hits.T)
        return totals / np.bincount(self.owner, minlength=len(best))


def forms(model: Model, word: str) -> list[int]:
    """Ids of the single tokens that a word can be: with and without a blank before, as written, capitalised, lower."""
    word = word.strip()
    written = (word, word[:1].upper() + word[1:], word.lower())
    encoded = [model.tokenizer.encode(blank + form, added=False).ids for form in written for blank in (" ", "")]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


def score(
    model: Model,
    lenses: Sequence[Lens],
    items: Sequence[Item],
    *,
    wanted: Request,
    strip: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PromptScores:
    """Rank every intermediate at the last token of every prompt, through every lens.

    Args:
        wanted: says which layers and sites each lens reads.
        strip: take blanks off the end of a prompt; otherwise it is tokenised exactly as given.
        progress: called with the number of prompts read so far.

    Raises RequestError for a prompt longer than the model's context.
    """
    words = [[forms(model, word) for word in item.intermediates] for item in items]
    kept = [number for number, found in enumerate(words) if any(found)]
    columns = [(row, ids) for row, number in enumerate(kept) for ids in words[number] if ids]
    targets = [forms(model, items[number].target or "") if items[number].target else [] for number in kept]
    named = _Named([ids for _, ids in columns])
    answers = _Named(targets)
    best = {lens.name: np.full((len(kept), len(columns)), -1, np.int32) for lens in lenses}
    answered = np.full((len(kept), len(kept)), -1, np.int32)
    texts = [items[number].prompt.rstrip() if strip else items[number].prompt for number in kept]
    readers = Readers.of(model, [LOGIT, *lenses]).by_name
    done = 0
    for rows, ids in _batches(model, texts):
        found, own = _ranks(model, ids, lenses, wanted, readers, (named.ids, answers.ids))
        for name, ranked in found.items():
            best[name][rows] = named.best(ranked)
        answered[rows] = answers.best(own)
        done += len(rows)
        if progress is not None:
            progress(done)
    own = answered.diagonal()
    return PromptScores(
        items=len(items),
        intermediates=sum(len(item.intermediates) for item in items),
        kept=np.array(kept, dtype=np.int64),
        readable=len(columns),
        best=best,
        owner=np.array([row for row, _ in columns], dtype=np.int64),
        known=(own >= 1) & (own <= KNOWN) if any(item.target for item in items) else None,
    )


def estimates(found: PromptScores, name: str, lenses: Sequence[Lens], *, seed: int) -> list[Scored]:
    """pass@k by lens, its null, it less its null, and less that of every lens after it; over items, each a cluster.

    The null of an item is the mean of its share over ``DRAWS`` permutations in which it gets another item's
    intermediates. Measures are called ``pass@10 NAME``, ``pass@10 null NAME`` and ``pass@10 - null NAME``; with
    ``, known`` behind they are over the items whose target the model ranks in its top 10.

    Args:
        name: of the prompt file.
        seed: of the permutations.
    """
    n = len(found.kept)
    others = _deranged(n, np.random.default_rng(seed))
    made: list[Scored] = []
    for known, chosen in ((False, np.ones(n, dtype=bool)), (True, found.known)):
        if chosen is None or (known and not chosen.any()):
            continue
        for k in KS:
            shares = {lens.name: found.passed(lens.name, k) for lens in lenses}
            own = {lens: share.diagonal()[chosen] for lens, share in shares.items()}
            null = {lens: _mean_of(share, others)[chosen] for lens, share in shares.items()}
            rest = f" {name}{', known' if known else ''}"
            for number, lens in enumerate(lenses):
                mine, chance = own[lens.name], null[lens.name]
                rows = [("", "", mine, None), (" null", "", chance, None), (" - null", "", mine - chance, None)]
                rows += [("", other.name, mine, own[other.name]) for other in lenses[number + 1 :]]
                for what, against, first, second in rows:
                    estimate = _over_items(first, second, seed)
                    measure = f"pass@{k}{what}{rest}"
                    made.append(Scored(lens.name, ALL_LAYERS, lens.site or START[1], measure, against, estimate))
    return made


def notes(found: PromptScores, name: str, *, strip: bool) -> list[str]:
    """What counts and how the prompts were read, in sentences."""
    read = "without the blanks at its end" if strip else "as given, blanks at its end included"
    said = [
        f"{name}: {len(found.kept):,} of {found.items:,} items count, with {found.readable:,} of the file's "
        f"{found.intermediates:,} intermediates that are a single token; each prompt is read at its last token, {read}."
    ]
    if found.known is not None:
        said.append(
            f"{name}: the model ranks the target of {int(found.known.sum()):,} items in its top {KNOWN} (known)."
        )
    return said


def _deranged(n: int, generator: np.random.Generator) -> Array:
    """``[DRAWS, n]`` permutations in which nothing stays in its place; for one item there is none: shape ``[0, n]``."""
    drawn: list[Array] = []
    while n > 1 and len(drawn) < DRAWS:
        permutation = generator.permutation(n)
        if (permutation != np.arange(n)).all():
            drawn.append(permutation)
    return np.stack(drawn) if drawn else np.zeros((0, n), dtype=np.int64)


def _mean_of(share: Array, others: Array) -> Array:
    """``[n]``, the mean over permutations ``others`` ``[DRAWS, n]`` of each row's share; NaN where there is none."""
    return share[np.arange(len(share)), others].mean(0) if len(others) else np.full(len(share), np.nan)


def _over_items(own: Array, less: Array | None, seed: int) -> Estimate:
    ones, clusters = np.ones(len(own)), np.arange(len(own))
    generator = np.random.default_rng(seed)
    if less is None:
        return ratio(own, ones, clusters=clusters, generator=generator, unit="1")
    return paired_ratio([own, less], ones, clusters=clusters, generator=generator, unit="1")


class _Named:
    """Words with several forms each; ranks of the forms, made once for all words, become ranks of the words."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.ids, places = np.unique(np.array([i for word in words for i in word], np.int64), return_inverse=True)
        self._places = places
        self._owner = np.repeat(np.arange(len(words)), np.array([len(word) for word in words], np.int64))
        self._words = len(words)

    def best(self, ranked: Array) -> Array:
        """``[n, T]`` ranks of ``ids``, -1 = undefined -> ``[n, words]``, the best form's; -1 for a word without."""
        none = np.iinfo(np.int32).max
        best = np.full((self._words, len(ranked)), none, np.int32)
        np.minimum.at(best, self._owner, np.where(ranked < 0, none, ranked).T[self._places])
        return np.where(best == none, -1, best).T


def _batches(model: Model, texts: Sequence[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Prompts of equal length together, so that nothing has to be padded: their numbers, and ids ``[b, t]``."""
    encoded = [model.tokenizer.encode(text).ids for text in texts]
    for number, ids in enumerate(encoded):
        if not 0 < len(ids) <= model.context:
            raise RequestError(
                f"the prompt {texts[number][:40]!r} is {len(ids):,} tokens: expected 1 to {model.context:,}, "
                "the model's context."
            )
    order = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
    for _, group in groupby(order, key=lambda number: len(encoded[number])):
        equal = list(group)
        for start in range(0, len(equal), BATCH):
            rows = equal[start : start + BATCH]
            yield rows, torch.tensor([encoded[number] for number in rows], device=model.device)


@torch.inference_mode()
def _ranks(
    model: Model,
    ids: torch.Tensor,
    lenses: Sequence[Lens],
    wanted: Request,
    readers: Mapping[str, Reader],
    named: tuple[Array, Array],
) -> tuple[dict[str, Array], Array]:
    """Lens name -> ``[b, T]`` best ranks over its layers of the first ``named``; the output's own of the second."""
    words, answers = (torch.from_numpy(part) for part in named)
    last = model.anatomy.layers
    places = {lens.name: wanted.places(lens) for lens in lenses}
    needed = sorted({place for found in places.values() for place in found} | {(last, START[1])})
    stream = {place: h[:, -1] for place, h in capture_sites(model, ids, needed).items()}
    none = np.iinfo(np.int32).max
    found: dict[str, Array] = {}
    for lens in lenses:
        reader = readers[lens.reader]
        best = np.full((len(ids), len(words)), none, np.int32)
        for layer, site in places[lens.name]:
            x = reader.prepare(lens.transport(layer, stream[layer, site]))
            ranked = ranks(reader, x, words)  # a fitted input lens's beta is positive: it moves no rank
            best = np.minimum(best, np.where(ranked < 0, none, ranked))
        found[lens.name] = np.where(best == none, -1, best)
    own = ranks(readers["output"], readers["output"].prepare(stream[last, START[1]]), answers)
    return found, own
