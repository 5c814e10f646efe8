"""Edits: changes to the stream as values, applied in the pass that captures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.addition import Tap
from midstream.model.anatomy import Anatomy
from midstream.model.forward import Changes, addends
from midstream.model.hook import Point, See
from midstream.stream.site import tap


class What(Protocol):
    """What an edit does to the stream where it applies."""

    def apply(self, h: Tensor) -> Tensor:
        """The stream that takes the place of ``h``: ``[b, m, d]`` -> ``[b, m, d]``, m the positions edited.

        ``h`` is float32 (float64 for a float64 model). Raises RequestError if the two do not fit together.
        """
        ...


@dataclass(frozen=True, eq=False)
class Add:
    """``h + scale * vector``.

    Attributes:
        vector: ``[d]``, or ``[b, d]`` with one vector a text; zeros leave a text as it is.
    """

    vector: Tensor
    scale: float = 1.0

    def apply(self, h: Tensor) -> Tensor:
        """As ``What.apply``. Raises RequestError if the vector has another width or another number of texts."""
        b, _, d = h.shape
        if self.vector.shape not in ((d,), (b, d)):
            raise RequestError(
                f"the vector to add has shape {list(self.vector.shape)}: expected [{d}], the width of the stream, or "
                f"[{b}, {d}], one vector for each of the {b} texts of the pass."
            )
        vector = self.vector.to(h.device, h.dtype) * self.scale
        return h + (vector if vector.dim() == 1 else vector[:, None])


@dataclass(frozen=True)
class Edit:
    """A change to the stream at one site.

    Edits of one pass compose: of two at the same place the second sees what the first made of the stream.

    Attributes:
        site: as for a capture. An edit of ``resid_mid`` is made through what attention adds, behind ``attn_out``.
        layers: at each of which it applies.
        positions: indices into the tokens of the pass, padding included, negative ones from the end; None: all.
    """

    site: str
    layers: tuple[int, ...]
    positions: tuple[int, ...] | None
    what: What


@dataclass(frozen=True)
class Hit:
    """One edit at one layer, as it was applied: ``edit`` is its index among the edits, ``positions`` how many."""

    edit: int
    layer: int
    site: str
    positions: int


@dataclass
class Plan:
    """Edits made ready for one pass.

    Attributes:
        changes: what the pass must do.
        hits: what it will hit.
        missing: the hits that have not happened yet.
    """

    hits: list[Hit] = field(default_factory=list[Hit])
    missing: list[Hit] = field(default_factory=list[Hit])
    before: list[Point] = field(default_factory=list[Point])
    after: list[Point] = field(default_factory=list[Point])

    @property
    def changes(self) -> Changes:
        """For ``model.forward.seen``."""
        return Changes(self.before, self.after)

    def done(self) -> tuple[Hit, ...]:
        """The record of what was hit. Raises RequestError if the pass ended before an edit's place."""
        if self.missing:
            first = self.missing[0]
            raise RequestError(
                f"edit {first.edit + 1} (layer {first.layer}, {first.site}) comes after all that is read in this pass, "
                "and would change none of it: edit an earlier place or read a later one."
            )
        return tuple(self.hits)


def plan(anatomy: Anatomy, edits: Sequence[Edit], shape: tuple[int, int]) -> Plan:
    """Edits checked and made ready for a pass over ``shape`` = (b, t) new tokens.

    Raises:
        RequestError: for a layer, site or position that is not there, an edit that selects nothing, or one whose
            vectors do not fit.
    """
    made = Plan()
    b, t = shape
    for number, edit in enumerate(edits):
        positions = _positions(edit, number, t)
        if not edit.layers:
            raise RequestError(f"edit {number + 1} names no layer: it would change nothing.")
        kept = edit.what.apply(torch.ones(b, len(positions), anatomy.width)).shape
        if kept != (b, len(positions), anatomy.width):
            raise RequestError(f"edit {number + 1} makes {list(kept)} of [{b}, {len(positions)}, {anatomy.width}].")
        for layer in dict.fromkeys(edit.layers):
            hit = Hit(number, layer, edit.site, len(positions))
            made.hits.append(hit)
            made.missing.append(hit)
            place = tap(anatomy, layer, edit.site)
            work = _Place(edit.what, positions, shape, made.missing, hit)
            if edit.site == "resid_mid":
                # its tap is the input of a norm beside the stream: only what attention adds changes the stream itself
                block = Tap(anatomy.blocks[layer - 1], "input")
                made.after += work.points(anatomy.taps[layer - 1]["attn_out"], base=block)
            else:
                made.before += work.points(place)
    return made


def _positions(edit: Edit, number: int, t: int) -> list[int]:
    """The positions as indices 0 to t - 1, ascending, each once."""
    if edit.positions is None:
        return list(range(t))
    outside = [position for position in edit.positions if not -t <= position < t]
    if outside:
        raise RequestError(
            f"edit {number + 1} names position {outside[0]}: the pass has {t} tokens, 0 to {t - 1} or -{t} to -1."
        )
    if not edit.positions:
        raise RequestError(f"edit {number + 1} names no position: it would change nothing; None names all.")
    return sorted({position % t for position in edit.positions})


class _Place:
    """One edit at one layer during a pass: gathers the value of its site, and changes the last addend to arrive."""

    def __init__(self, what: What, positions: list[int], shape: tuple[int, int], missing: list[Hit], hit: Hit) -> None:
        self.what, self.shape, self.missing, self.hit = what, shape, missing, hit
        self.positions = slice(None) if len(positions) == shape[1] else positions
        self.total: Tensor | None = None
        self.waiting = 0

    def points(self, place: Tap, base: Tap | None = None) -> list[Point]:
        """Hooks on the addends of ``place``; ``base`` counts in the value but is left as it is."""
        parts = [*addends(place)]
        self.waiting = len(parts)
        gathered: list[Point] = [] if base is None else [(base.module, base.side, self._keep)]
        alone = base is None and len(parts) == 1 and place.scale == 1.0
        return [*gathered, *((part.module, part.side, self._change(part.scale, alone)) for part in parts)]

    def _keep(self, value: Tensor) -> None:
        self._add(self._wide(value))

    def _change(self, scale: float, alone: bool) -> See:
        def see(value: Tensor) -> Tensor | None:
            wide = self._wide(value)
            self._add(wide * scale)
            self.waiting -= 1
            if self.waiting:
                return None
            assert self.total is not None
            old = self.total[:, self.positions]
            new = self.what.apply(old)
            changed = wide.clone()
            changed[:, self.positions] = new if alone else wide[:, self.positions] + (new - old) / scale
            self.total = None
            self.missing.remove(self.hit)
            return changed.to(value.dtype).reshape(value.shape)

        return see

    def _add(self, value: Tensor) -> None:
        self.total = value if self.total is None else self.total + value

    def _wide(self, value: Tensor) -> Tensor:
        rows = value.reshape(*self.shape, -1)
        return rows if rows.dtype == torch.float64 else rows.float()
