"""What a fit will read and make, decided before anything runs: kinds, layers, documents, windows, groups of layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from midstream.corpus.source import Corpus, cluster_of
from midstream.corpus.split import held_out
from midstream.corpus.window import LONGEST, Window, windows
from midstream.errors import RequestError
from midstream.interval import ENOUGH
from midstream.lens.fit.least_squares import HELD_OUT, check_enough
from midstream.lens.fit.sums import TILE, Key
from midstream.lens.kind import Kind
from midstream.lens.lens import Source
from midstream.lens.passage import MIN_CONTEXT
from midstream.model.model import Model
from midstream.model.placement import free_memory
from midstream.record import Array
from midstream.stream.site import check

HELD_OUT_SHARES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Share of the clusters of documents that is held out: the first that holds out enough of a small corpus."""

FEW_CLUSTERS = 0.2
"""Share up to which it is raised for the intervals alone: they are better from ``interval.ENOUGH`` clusters on."""

TOKENS = 200_000
"""Usable tokens that a fit reads unless told otherwise."""

BASELINES: dict[Source, int] = {"token": 1, "tokens": 4}
"""Inputs of the baselines, and how many input rows each holds."""


@dataclass(frozen=True)
class FitOptions:
    """What a user may ask of a fit.

    Attributes:
        kinds: lenses to fit, each once.
        tokens: usable tokens to read, held-out ones included.
        site: place in the block.
        layers: layers to fit; None: all that the site has.
        seed: of the split and of every random draw.
        cluster: field of the documents that says what is never cut by the split; None: ``work``, or the document.
        memory: bytes that the sums may take; None: a third of what is free.
        part: (P, N): gather the sums of the P-th of N parts only.
        resume: files of sums to go on with.
        out: folder for the lenses; None: the model's lens folder.
    """

    kinds: tuple[Kind, ...]
    tokens: int = TOKENS
    site: str = "resid_post"
    layers: tuple[int, ...] | None = None
    seed: int = 0
    cluster: str | None = None
    memory: int | None = None
    part: tuple[int, int] | None = None
    resume: tuple[Path, ...] = ()
    out: Path | None = None

    def __post_init__(self) -> None:
        """Raise RequestError for numbers that make no sense."""
        if not self.kinds:
            raise RequestError("no kind of lens given: name at least one, for example tuned.")
        if len(set(self.kinds)) < len(self.kinds):
            raise RequestError(f"a kind is named twice in {' '.join(map(str, self.kinds))}: name each once.")
        if self.tokens < 1:
            raise RequestError(f"--tokens is {self.tokens}: expected a positive number.")
        if self.memory is not None and self.memory < 1:
            raise RequestError(f"--memory is {self.memory}: expected bytes, a positive number.")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise RequestError(f"--part is {self.part[0]}/{self.part[1]}: expected P/N with P from 1 to N.")


@dataclass(frozen=True)
class PlannedDocument:
    """A document that will be read.

    Attributes:
        number: order in the corpus.
        ids: ``[t]`` int32, the tokens that are read.
        cluster: label of what the split does not cut; held: whether it is held out.
    """

    number: int
    sha256: str
    ids: Array
    cluster: str
    held: bool


@dataclass(frozen=True)
class Unit:
    """One window of a planned document: what is read, counted and resumed as a whole."""

    number: int
    document: PlannedDocument
    window: Window
    usable: int


@dataclass(frozen=True)
class Plan:
    """A fit, decided.

    Attributes:
        layers: that the lenses read, ascending.
        targets: of the least-squares maps, ``final:k`` or ``row:j``.
        documents: to be read, in order.
        units: their windows, numbered from 0.
        corpus: what is recorded of the corpus.
        model: identity of the model.
        context: longest window in tokens.
    """

    options: FitOptions
    layers: tuple[int, ...]
    targets: tuple[str, ...]
    documents: tuple[PlannedDocument, ...]
    units: tuple[Unit, ...]
    corpus: dict[str, Any]
    model: str
    context: int
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the plan by what the sums depend on."""
        object.__setattr__(self, "digest", hashlib.sha256(json.dumps(self._parts()).encode()).hexdigest())

    def _parts(self) -> list[Any]:
        hashes = [(document.sha256, len(document.ids), document.held) for document in self.documents]
        return [self.model, self.options.site, self.layers, self.targets, self.context, self.baselines, hashes]

    @property
    def lag(self) -> int:
        """Tokens that the targets look back."""
        return max((int(name[4:]) for name in self.targets if name.startswith("row:")), default=0)

    @property
    def ahead(self) -> int:
        """Positions that the targets look ahead."""
        return max((int(name[6:]) for name in self.targets if name.startswith("final:")), default=0)

    @property
    def baselines(self) -> bool:
        """Whether maps of the input rows are fitted too: beside future and input lenses."""
        return any(kind.name in ("future", "input") for kind in self.options.kinds)

    def inputs(self) -> list[Key]:
        """Every input of the least-squares maps."""
        if not self.targets:
            return []
        stream: list[Key] = [("stream", layer) for layer in self.layers]
        rows: list[Key] = [(source, 0) for source in BASELINES]
        return stream + (rows if self.baselines else [])

    def mine(self) -> list[Unit]:
        """The units of this part of the fit."""
        if self.options.part is None:
            return list(self.units)
        part, parts = self.options.part
        return [unit for unit in self.units if unit.document.number % parts == part - 1]


def target_of(kind: Kind) -> str | None:
    """What a kind's maps are fitted to by least squares; None for one that is not."""
    if kind.name == "jacobian":
        return None
    return f"row:{kind.number}" if kind.name == "input" else f"final:{kind.number}"


def plan(model: Model, corpus: Corpus, options: FitOptions) -> Plan:
    """Reads and tokenises as much of the corpus as the fit will use. Raises RequestError for what cannot be fitted."""
    return plan_of(model, corpus.name, _tokenized(model, corpus, options.cluster), options)


def _tokenized(model: Model, corpus: Corpus, cluster: str | None) -> Iterator[PlannedDocument]:
    for one in corpus:
        ids = np.asarray(model.tokenizer.encode(one.text).ids, dtype=np.int32)
        yield PlannedDocument(one.number, one.sha256, ids, cluster_of(one, cluster), held=False)


def plan_of(
    model: Model, name: str, documents: Iterable[PlannedDocument], options: FitOptions, *, in_turn: bool = False
) -> Plan:
    """The plan of a fit on documents that are tokenised, as many of them as it will use.

    Args:
        in_turn: clusters are held out in turn, in the order of the documents, no more than are needed to fit: for those
            in an order that is random already, and scored on others. Else by a hash, which may take many of a few.

    Raises RequestError for what cannot be fitted.
    """
    layers = _layers(model, options)
    if options.site != "resid_post" and any(kind.name == "jacobian" for kind in options.kinds):
        raise RequestError(f"a jacobian lens reads resid_post, and --site is {options.site}: fit it without --site.")
    targets = tuple(dict.fromkeys(target for kind in options.kinds if (target := target_of(kind)) is not None))
    context = min(model.context, LONGEST)
    reach = Reach(
        lag=max((kind.number for kind in options.kinds if kind.name == "input"), default=0),
        ahead=max((kind.number for kind in options.kinds if kind.name == "future"), default=0),
    )
    taken: list[tuple[PlannedDocument, list[tuple[Window, int]]]] = []
    left = options.tokens
    for document in documents:
        ids, cut = reach.cut(document.ids, context, left)
        if not cut:
            continue
        taken.append((replace(document, ids=ids), cut))
        left -= sum(usable for _, usable in cut)
        if left <= 0:
            break
    taken, share, sides = _split(taken, options.seed, in_turn)
    read = [document for document, _ in taken]
    about = {
        "name": name,
        "digest": _digest(read),
        "documents": len(read),
        "tokens": options.tokens - left,
        "held_out": sum(document.held for document in read),
        "held_out_share": share,
    }
    if targets:
        check_enough(sides[False], sides[True], model.anatomy.width)
    windows_of = [(document, *entry) for document, cut in taken for entry in cut]
    units = [Unit(number, *entry) for number, entry in enumerate(windows_of)]
    return Plan(options, layers, targets, tuple(read), tuple(units), about, model.fingerprint.identity, context)


def groups(model: Model, planned: Plan) -> list[list[Key]]:
    """The keys whose sums are gathered in one forward pass each, so that they fit in memory. Raises RequestError if
    not even one key does."""
    keys = planned.inputs()
    width = model.anatomy.width
    columns = width * len(planned.targets)
    limit = planned.options.memory or free_memory(model.device) // 3

    def size(key: Key) -> int:
        rows = width * BASELINES.get(key[0], 1)
        # the sums of both sides in float64, a tile, and a product on its way there
        return 16 * rows * (rows + columns) + 4 * TILE * rows

    found: list[list[Key]] = []
    used = limit
    for key in keys:
        if used + size(key) > limit:
            found.append([])
            used = 4 * TILE * columns
        if used + size(key) > limit:
            raise RequestError(
                f"the sums of {key[0]} {key[1]} take {(size(key) + used) / 1e6:.0f} MB and --memory allows "
                f"{limit / 1e6:.0f} MB: raise it, or fit fewer kinds at once."
            )
        found[-1].append(key)
        used += size(key)
    return found


@dataclass(frozen=True)
class Reach:
    """How far the targets look back and ahead, in tokens."""

    lag: int
    ahead: int

    def cut(self, ids: Array, context: int, most: int) -> tuple[Array, list[tuple[Window, int]]]:
        """The windows of a document that have usable positions, at most ``most`` together; the ids may be cut short."""
        found = [entry for entry in self._usable(len(ids), context) if entry[1] > 0]
        if sum(usable for _, usable in found) > most:
            ids = ids[: self._length(len(ids), context, most)]
            found = [entry for entry in self._usable(len(ids), context) if entry[1] > 0]
        return ids, found

    def _usable(self, tokens: int, context: int) -> Iterator[tuple[Window, int]]:
        for window in windows(tokens, context) if tokens else []:
            first = max(window.first - window.start, MIN_CONTEXT, self.lag)
            yield window, max(0, window.stop - window.start - self.ahead - first)

    def _length(self, tokens: int, context: int, most: int) -> int:
        """The longest beginning of a document with at most ``most`` usable positions, by halving."""
        low, high = 0, tokens
        while low < high:
            middle = (low + high + 1) // 2
            few = sum(usable for _, usable in self._usable(middle, context)) <= most
            low, high = (middle, high) if few else (low, middle - 1)
        return low


_Taken = list[tuple[PlannedDocument, list[tuple[Window, int]]]]


def _split(taken: _Taken, seed: int, in_turn: bool) -> tuple[_Taken, float, dict[bool, int]]:
    """The documents, each on its side, the share held out, and the usable tokens of both sides."""
    found, share, sides = taken, 0.0, {False: 0, True: 0}
    clusters = list(dict.fromkeys(document.cluster for document, _ in taken))
    for share in HELD_OUT_SHARES:
        chosen = (
            _in_turn(clusters, share) if in_turn else {one for one in clusters if held_out(one, seed=seed, share=share)}
        )
        found = [(replace(document, held=document.cluster in chosen), cut) for document, cut in taken]
        sides = {
            side: sum(n for document, cut in found for _, n in cut if document.held == side) for side in (False, True)
        }
        if sides[True] >= HELD_OUT and (in_turn or len(chosen) >= ENOUGH or share >= FEW_CLUSTERS):
            break
    return found, share, sides


def _in_turn(clusters: Sequence[str], share: float) -> set[str]:
    """A share of them, evenly spaced; one at least, of two or more."""
    number = max(round(share * len(clusters)), 1) if len(clusters) > 1 else 0
    return {clusters[(2 * one + 1) * len(clusters) // (2 * number)] for one in range(number)}


def _layers(model: Model, options: FitOptions) -> tuple[int, ...]:
    last = model.anatomy.layers
    lowest = 0 if options.site == "resid_post" else 1
    check(model.anatomy, last, options.site)
    chosen = range(lowest, last + 1) if options.layers is None else options.layers
    layers = sorted({layer % (last + 1) if -last - 1 <= layer < 0 else layer for layer in chosen})
    for layer in layers:
        check(model.anatomy, layer, options.site)
    if not layers:
        raise RequestError(f"no layer given: expected some of {lowest} to {last}.")
    return tuple(layers)


def _digest(documents: Sequence[PlannedDocument]) -> str:
    """sha256 over the hashes of the documents that are read, in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(document.sha256) for document in documents)).hexdigest()
