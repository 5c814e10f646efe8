"""Edits: changes to the stream as values, applied in the pass that captures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Literal, cast

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.addition import Tap
from midstream.model.anatomy import Anatomy
from midstream.model.forward import Changes, addends
from midstream.model.hook import Point, See
from midstream.stream.change import What
from midstream.stream.site import check, tap

Positions = tuple[int, ...] | Literal["new"] | None
"""Of an edit: indices, every generated position, or all."""


@dataclass(frozen=True)
class Edit:
    """A change to the stream at one site.

    Edits of one pass compose: of two at the same place the second sees what the first made of the stream.

    Attributes:
        site: as for a capture. An edit of ``resid_mid`` is made through what attention adds, behind ``attn_out``.
        layers: at each of which it applies.
        positions: indices into the tokens, padding included, negative ones from the end (of the prompt, where a text is
            generated); ``"new"``: every position that is generated; None: all.
        texts: indices into the batch; None: all.
    """

    site: str
    layers: tuple[int, ...]
    positions: Positions
    what: What
    texts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raises RequestError for places that are no whole numbers, and a change that is none."""
        for name in ("layers", "positions", "texts"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, str) and given == "new"):
                object.__setattr__(self, name, _indices(name, given))
        if isinstance(self.what, type) or not (hasattr(self.what, "apply") and hasattr(self.what, "part")):
            raise RequestError(f"an edit's change is {self.what!r:.80}: expected for example midstream.Scale(0).")


def _indices(name: str, given: Any) -> tuple[int, ...]:
    """One or several indices of any integer type."""
    try:
        return (index(given),)
    except TypeError:
        pass
    try:
        return tuple(map(index, given))
    except TypeError:
        raise RequestError(f"an edit's {name} are {given!r:.80}: expected whole numbers.") from None


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


def verify(
    anatomy: Anatomy, edits: Sequence[Edit], tokens: int, *, texts: int = 1, generated: bool = False, first: int = 0
) -> None:
    """Check edits of texts of so many tokens before anything runs.

    Args:
        generated: whether more tokens are made after these, which ``"new"`` positions mean.
        first: number of the first of these edits among all, for the error.

    Raises:
        RequestError: for a layer, site, text or position that is not there, an edit that selects nothing, or one
            whose vectors do not fit.
    """
    for number, edit in enumerate(edits, start=first):
        if not edit.layers:
            raise RequestError(f"edit {number + 1} names no layer: it would change nothing.")
        for layer in edit.layers:
            check(anatomy, layer, edit.site)
        rows = _texts(edit, number, texts)
        if edit.positions == "new" and not generated:
            raise RequestError(f"edit {number + 1} is of new positions, and no text is generated: name positions.")
        count = 1 if edit.positions == "new" else len(_positions(edit, number, tokens))
        if generated and edit.texts is not None:
            raise RequestError(f"edit {number + 1} names texts: a continuation takes the edits of all its prompts.")
        if generated and edit.positions is None:
            edit.what.part([tokens])  # one that has a vector for each position has none for those to come
        kept = edit.what.apply(torch.ones(rows, count, anatomy.width)).shape
        if kept != (rows, count, anatomy.width):
            raise RequestError(f"edit {number + 1} makes {list(kept)} of [{rows}, {count}, {anatomy.width}].")


def within(edits: Sequence[Edit], start: int, stop: int, tokens: int) -> list[Edit]:
    """The edits of a text as edits of the pass over its positions ``start`` to ``stop - 1``; others are left out.

    Args:
        tokens: of the text, or of its prompt where it is generated: positions from there on are new.
    """
    found: list[Edit] = []
    for number, edit in enumerate(edits):
        if edit.positions == "new":
            kept, what = list(range(max(start, tokens), stop)), edit.what
        else:
            # what is said of all positions goes on where more are generated
            named = list(range(max(tokens, stop))) if edit.positions is None else _positions(edit, number, tokens)
            inside = [place for place, position in enumerate(named) if start <= position < stop]
            kept, what = [named[place] for place in inside], edit.what.part(inside) if inside else edit.what
        if kept:
            found.append(replace(edit, positions=tuple(position - start for position in kept), what=what))
    return found


def plan(anatomy: Anatomy, edits: Sequence[Edit], shape: tuple[int, int]) -> Plan:
    """Edits made ready for a pass over ``shape`` = (b, t) new tokens. Raises RequestError as ``verify`` does."""
    made = Plan()
    verify(anatomy, edits, shape[1], texts=shape[0])
    for number, edit in enumerate(edits):
        positions = _positions(edit, number, shape[1])
        for layer in dict.fromkeys(edit.layers):
            hit = Hit(number, layer, edit.site, len(positions))
            made.hits.append(hit)
            made.missing.append(hit)
            place = tap(anatomy, layer, edit.site)
            work = _Place(edit, positions, shape, made.missing, hit)
            if edit.site == "resid_mid":
                # its tap is the input of a norm beside the stream: only what attention adds changes the stream itself
                block = Tap(anatomy.blocks[layer - 1], "input")
                made.after += work.points(anatomy.taps[layer - 1]["attn_out"], base=block)
            else:
                made.before += work.points(place)
    return made


def _texts(edit: Edit, number: int, b: int) -> int:
    """How many texts it changes."""
    if edit.texts is None:
        return b
    if not edit.texts or not all(0 <= text < b for text in edit.texts) or len({*edit.texts}) < len(edit.texts):
        raise RequestError(f"edit {number + 1} names the texts {list(edit.texts)}: expected some of 0 to {b - 1}.")
    return len(edit.texts)


def _positions(edit: Edit, number: int, t: int) -> list[int]:
    """The positions as indices 0 to t - 1, ascending, each once."""
    if edit.positions is None:
        return list(range(t))
    named = cast(tuple[int, ...], edit.positions)
    outside = [position for position in named if not -t <= position < t]
    if outside:
        raise RequestError(
            f"edit {number + 1} names position {outside[0]}: there are {t} tokens, 0 to {t - 1} or -{t} to -1."
        )
    if not named:
        raise RequestError(f"edit {number + 1} names no position: it would change nothing; None names all.")
    return sorted({position % t for position in named})


class _Place:
    """One edit at one layer during a pass: gathers the value of its site, and changes the last addend to arrive."""

    def __init__(self, edit: Edit, positions: list[int], shape: tuple[int, int], missing: list[Hit], hit: Hit) -> None:
        self.what, self.shape, self.missing, self.hit = edit.what, shape, missing, hit
        columns = slice(None) if len(positions) == shape[1] else torch.tensor(positions)
        rows = slice(None) if edit.texts is None else torch.tensor(edit.texts)
        if isinstance(rows, Tensor) and isinstance(columns, Tensor):
            rows = rows[:, None]
        self.where = (rows, columns)
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
            old = self.total[self.where]
            new = self.what.apply(old)
            if not bool(torch.isfinite(new.to(value.dtype)).all()) and bool(torch.isfinite(old).all()):
                raise RequestError(
                    f"edit {self.hit.edit + 1} at layer {self.hit.layer} makes numbers larger than {value.dtype} "
                    "holds: make it smaller."
                )
            changed = wide.clone()
            changed[self.where] = new if alone else wide[self.where] + (new - old) / scale
            self.total = None
            self.missing.remove(self.hit)
            return changed.to(value.dtype).reshape(value.shape)

        return see

    def _add(self, value: Tensor) -> None:
        self.total = value if self.total is None else self.total + value

    def _wide(self, value: Tensor) -> Tensor:
        rows = value.reshape(*self.shape, -1)
        return rows if rows.dtype == torch.float64 else rows.float()
