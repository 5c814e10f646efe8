"""Edits as a user writes them: ``layers=20 positions=-1 add="unembedding: Paris" length=0.1``.

A text of ``key=value`` pieces with one kind of change, or the name of a file that ``save_edits`` wrote:

    add=VECTOR [times=1 | length=SHARE]     h + times v, or h + SHARE |h| v / |v|
    replace=VECTOR                          v in the place of h
    interpolate=VECTOR alpha=A [keep_norm=no]
    project_out=VECTOR                      h without its part along v
    scale=FACTOR
    patch=TEXT                              what the run over another text has at the same positions
    swap=SOURCE:TOKEN|TOKEN                 exchange what h has along two tokens' vectors, over all the layers

VECTOR is ``embedding:TOKEN``, ``unembedding:TOKEN``, ``lens:NAME:TOKEN`` (what moves the token's score there most),
``difference:FILE:FILE`` (mean stream of the first file's documents less that of the second's) or ``random``; in a TOKEN
``\\|`` and ``\\:`` are a bar and a colon. Where: ``layers=`` (all kinds), ``positions=`` (numbers, ranges, ``new``;
without it all) and ``site=``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from midstream.errors import RequestError, choices
from midstream.run.edit_vector import Places, Setting, listed, mean_of, rows_of, vectors, whole
from midstream.run.numbers import numbers, pairs
from midstream.stream.change import Add, Interpolate, ProjectOut, Replace, Scale, What
from midstream.stream.edit import Edit, verify
from midstream.stream.edit_file import load_edits
from midstream.stream.vector import patch, swap

OPTIONS: dict[str, tuple[str, ...]] = {
    "add": ("times", "length"),
    "replace": (),
    "interpolate": ("alpha", "keep_norm"),
    "project_out": (),
    "scale": (),
    "patch": (),
    "swap": (),
}
"""Kind of change -> the keys that it takes beside those of its place."""

PLACE = ("layers", "positions", "site")


def edits_of(setting: Setting, given: Sequence[str | Edit]) -> list[Edit]:
    """The edits that texts or files describe, and those that are edits already, checked against model and text.

    Raises:
        RequestError: for a text that is none, and for what does not fit the model or selects nothing.
    """
    edits: list[Edit] = []
    if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
        raise RequestError(f"edits were given as {type(given).__name__}: expected a list of midstream.Edit or texts.")
    for one in given:
        if isinstance(one, Edit):
            made = [one]
        elif not isinstance(one, str):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
            raise RequestError(f"an edit was given as {type(one).__name__}: expected a midstream.Edit or a text.")
        else:
            made = load_edits(one) if one.endswith(".safetensors") and "=" not in one else _parsed(setting, one)
        verify(setting.model.anatomy, made, len(setting.ids), generated=setting.generated, first=len(edits))
        edits += made
    return edits


def _parsed(setting: Setting, spec: str) -> list[Edit]:
    values = _values(spec)
    kinds = [key for key in values if key in OPTIONS]
    if len(kinds) != 1:
        raise RequestError(
            f"the edit {spec!r} names {len(kinds)} kinds of change: expected one, {' or '.join(OPTIONS)}."
        )
    if extra := set(values) - {kinds[0], *OPTIONS[kinds[0]], *PLACE}:
        raise choices(f"key of the edit {kinds[0]}", min(extra), [*OPTIONS[kinds[0]], *PLACE])
    if "layers" not in values:
        raise RequestError(f"the edit {spec!r} names no layer: expected for example layers=20 or layers=8-12.")
    above = setting.model.anatomy.layers + 1
    layers = [layer + above if -above <= layer < 0 else layer for layer in numbers("layers", values["layers"])]
    at = values.get("positions", "all")
    positions = None if at == "all" else "new" if at == "new" else tuple(numbers("positions", at, len(setting.ids)))
    places = Places(tuple(dict.fromkeys(layers)), positions, values.get("site", "resid_post"))
    probe = Edit(places.site, places.layers, positions, Scale(1.0))
    verify(setting.model.anatomy, [probe], len(setting.ids), generated=setting.generated)
    return _Made(setting, places, values, kinds[0]).edits()


def _values(spec: str) -> dict[str, str]:
    try:
        pieces = shlex.split(spec)
    except ValueError as error:
        raise RequestError(f"the edit {spec!r} cannot be read: {error}; quote values that hold blanks.") from None
    return pairs(f"the edit {spec!r}", pieces)


@dataclass(frozen=True, eq=False)
class _Made:
    """One edit as it was written, on its way to values."""

    setting: Setting
    places: Places
    values: dict[str, str]
    kind: str

    def edits(self) -> list[Edit]:
        """One a layer where each layer has vectors of its own, else one for all."""
        value = self.values[self.kind]
        if self.kind == "patch":
            return self._patch(value)
        if self.kind == "swap":
            return self._swap(value)
        if self.kind == "scale":
            return [self._edit(self.places.layers, Scale(_number("scale", value)))]
        by_layer = vectors(self.setting, self.places, value)
        shared = len({id(vector) for vector in by_layer.values()}) == 1
        groups = [self.places.layers] if shared else [(layer,) for layer in self.places.layers]
        return [self._edit(group, self._what(by_layer[group[0]])) for group in groups]

    def _edit(self, layers: tuple[int, ...], what: What) -> Edit:
        return Edit(self.places.site, layers, self.places.positions, what)

    def _what(self, vector: Tensor) -> What:
        values = self.values
        if self.kind == "add":
            if {"times", "length"} <= set(values):
                raise RequestError("an edit that adds has times and length: expected one of the two.")
            name = "length" if "length" in values else "times"
            return Add(vector, _number(name, values.get(name, "1")), relative=name == "length")
        if self.kind == "interpolate":
            if "alpha" not in values:
                raise RequestError("an edit that interpolates has no alpha: expected a strength of 0 to 1.")
            keep = {"yes": True, "no": False}.get(values.get("keep_norm", "yes"))
            if keep is None:
                raise choices("value of keep_norm", values["keep_norm"], ("yes", "no"))
            return Interpolate(vector, _number("alpha", values["alpha"]), keep)
        return Replace(vector) if self.kind == "replace" else ProjectOut(mean_of(vector)[None])

    def _patch(self, text: str) -> list[Edit]:
        model, n = self.setting.model, len(self.setting.ids)
        ids = model.tokenizer.encode(text).ids
        if self.places.positions == "new":
            raise RequestError("new positions have none in another text: name positions of the prompt.")
        named = self.places.indices(n)
        if named is None and len(ids) != n:
            raise RequestError(
                f"the text to patch from has {len(ids)} tokens and the text read {n}: name the positions, or give "
                "texts of equal length."
            )
        named = [*range(n)] if named is None else named
        if max(named) >= len(ids):
            raise RequestError(f"the text to patch from has {len(ids)} tokens and no position {max(named)}.")
        whole(model, self.setting.ids, "text")
        other = whole(model, ids, "text to patch from")
        return patch(model, other, self.places.layers, named, site=self.places.site)

    def _swap(self, given: str) -> list[Edit]:
        pair = listed(given)
        if len(pair) != 2 or given.partition(":")[0] not in ("embedding", "unembedding", "lens"):
            raise RequestError(f"swap={given}: expected SOURCE:TOKEN|TOKEN, for example 'unembedding: Paris| Rome'.")
        if self.places.positions == "new":
            raise RequestError("a swap takes what the text has without it, and new positions have nothing yet.")
        rows = rows_of(self.setting, self.places, pair)
        at = self.places.indices(len(self.setting.ids))
        return swap(self.setting.model, self.setting.tensor, rows, at, site=self.places.site)


def _number(name: str, given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise RequestError(f"{name} is {given!r}: expected a number.") from None
