"""What a user may ask of a reading, checked against the model before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

from midstream.errors import RequestError, choices
from midstream.lens.file.find import find_all
from midstream.lens.file.folder import available
from midstream.lens.lens import Lens, spans
from midstream.model.model import Model
from midstream.stream.edit import Edit
from midstream.stream.site import Place, check

Precision = Literal["exact", "fast"]

START: Place = (0, "resid_post")
"""What enters block 1; layer 0 has no other site."""


class ReadOptions(TypedDict, total=False):
    """The options of a reading, the same in Python and on the command line.

    Keys:
        lens: one or several lenses, each a ``Lens`` or what ``lens.find.find`` takes: ``"logit"``, ``"tuned"``, a
            file ...; default, or None: those of ``default_lenses``.
        layers: layers to read, 0 to L; default all. Negative ones count from the end, -1 = L.
        every: keep every k-th of them, counted back from the last, which always stays.
        site: place in the block, several, or ``"all"``; default, or None: ``"resid_post"``, and for a lens that was
            fitted at another site that one.
        top_k: best tokens kept per row; default 10.
        watch: text of a single token to follow at every layer, or several.
        precision: ``"exact"`` (float32 products) or ``"fast"`` (8-bit screening, float32 decides).
        special: parse special tokens such as ``<|im_end|>`` in the text; default off.
        seed: of every random draw, kept in the provenance; the built-in lenses draw nothing.
        edits: changes to the stream under which the text is read.
        versus: also read the text without them, and give the difference (columns ``record.VERSUS``).
    """

    lens: str | Path | Lens | Sequence[str | Path | Lens] | None
    layers: int | Iterable[int] | None
    every: int
    site: str | Sequence[str] | None
    top_k: int
    watch: str | Sequence[str]
    precision: Precision
    special: bool
    seed: int | None
    edits: Sequence[Edit | str] | Edit | str
    versus: bool


@dataclass(frozen=True)
class Request:
    """A reading that the model can give: every name resolved and every number checked.

    Attributes:
        layers: ascending.
        sites: in the order of the model's own computation; lenses that were fitted at one site read there only.
        watch: ids of the watched tokens.
        edits, versus: as in ``ReadOptions``.
    """

    lenses: tuple[Lens, ...]
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    top_k: int
    watch: tuple[int, ...]
    precision: Precision
    seed: int | None = None
    edits: tuple[Edit, ...] = ()
    versus: bool = False

    @property
    def reach(self) -> int:
        """Largest absolute offset of the lenses, in tokens."""
        return max(abs(lens.offset) for lens in self.lenses)

    def places(self, lens: Lens) -> list[Place]:
        """The (layer, site) pairs that a lens reads, in the order of its rows: site by site, layers ascending.

        A lens that does not read the stream stands at layer 0, whatever layers and sites were asked for.
        """
        if lens.source != "stream":
            return [START]
        sites = self.sites if lens.site is None else (lens.site,)
        pairs = [(layer, site) for site in sites for layer in self.layers if layer > 0 or site == START[1]]
        return [place for place in pairs if lens.reads(*place)]


def request(model: Model, options: ReadOptions) -> Request:
    """The checked request. Raises RequestError, naming the valid choices, for anything the model does not have."""
    if unknown := set(options) - set(ReadOptions.__annotations__):
        raise choices("option", min(unknown), ReadOptions.__annotations__)
    last = model.anatomy.layers
    site = options.get("site")
    sites = _sites(model, "resid_post" if site is None else site)
    layers = _layers(options.get("layers"), last, options.get("every", 1))
    if 0 in layers and "resid_post" not in sites:
        layers = tuple(layer for layer in layers if layer > 0)
    if not layers:
        raise RequestError(f"no layer to read: layer 0 has only the site resid_post; choose layers from 1 to {last}.")
    top_k = options.get("top_k", 10)
    vocabulary = model.anatomy.vocabulary
    if not isinstance(top_k, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"top_k is {top_k!r}: expected a whole number.")
    if not 1 <= top_k <= min(vocabulary, 1024):
        raise RequestError(f"top-k is {top_k}: expected 1 to {min(vocabulary, 1024)}.")
    precision = options.get("precision", "exact")
    if precision not in get_args(Precision):
        raise choices("precision", precision, get_args(Precision))
    watched = options.get("watch", ())
    watched = [watched] if isinstance(watched, str) else watched
    watch = tuple(dict.fromkeys(model.tokenizer.single(text) for text in watched))
    given = options.get("lens")
    lenses = _lenses(model, default_lenses(model) if given is None else given)
    edits, versus = _edits(options)
    wanted = Request(lenses, layers, sites, top_k, watch, precision, options.get("seed"), edits, versus)
    for lens in lenses:
        _check_places(model, wanted, lens, named=site is not None)
    return wanted


def _edits(options: ReadOptions) -> tuple[tuple[Edit, ...], bool]:
    given, versus = options.get("edits") or (), options.get("versus", False)
    edits = tuple(edit for edit in ([given] if isinstance(given, Edit) else given) if isinstance(edit, Edit))
    if not isinstance(given, Edit) and len(edits) < len(given):
        raise RequestError("an edit was given as text: only midstream.read and the command line turn it into one.")
    if versus and not edits:
        raise RequestError("nothing to compare with: the text is read without edits; give one, or leave versus out.")
    return edits, versus


def default_lenses(model: Model) -> tuple[str, ...]:
    """The lenses that a reading has where the user names none: the logit lens, and tuned where one has been fitted."""
    return ("logit", *(kind for kind in available(model) if kind == "tuned"))


def _check_places(model: Model, wanted: Request, lens: Lens, *, named: bool) -> None:
    """Refuse a lens that can read none of the layers and sites asked for; ``named``: the user named the sites."""
    if lens.source == "stream" and named and lens.site is not None and lens.site not in wanted.sites:
        raise RequestError(
            f"lens {lens.name!r} was fitted at {lens.site} and reads only there, not at {', '.join(wanted.sites)}: "
            f"name the site {lens.site}, or none."
        )
    if not wanted.places(lens):
        whole = range(model.anatomy.layers + 1) if lens.layers is None else lens.layers
        lowest = 0 if lens.site in (None, START[1]) else 1
        raise RequestError(
            f"lens {lens.name!r} reads none of the layers {spans(wanted.layers)} at "
            f"{lens.site or ', '.join(wanted.sites)}: it has {spans([layer for layer in whole if layer >= lowest])}."
        )


def _lenses(model: Model, given: str | Path | Lens | Sequence[str | Path | Lens]) -> tuple[Lens, ...]:
    listed = [given] if isinstance(given, (str, Path, Lens)) else list(given)
    if not listed:
        raise RequestError("no lens given: name at least one, for example 'logit'.")
    return find_all(model, listed)


def _sites(model: Model, given: str | Sequence[str]) -> tuple[str, ...]:
    available = model.anatomy.sites
    listed = [given] if isinstance(given, str) else list(given)
    if "all" in listed:
        return available
    for site in listed:
        check(model.anatomy, model.anatomy.layers, site)
    if not listed:
        raise RequestError(f"no site given: name at least one of {', '.join(available)}, or 'all'.")
    return tuple(site for site in available if site in listed)


def _layers(given: int | Iterable[int] | None, last: int, every: int) -> tuple[int, ...]:
    if not isinstance(every, int) or every < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"every {every!r}-th layer: expected a stride of 1 or more.")
    listed = range(last + 1) if given is None else [given] if isinstance(given, int) else list(given)
    # a user's types are checked by nobody
    if wrong := [layer for layer in listed if not isinstance(layer, int)]:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"layer {wrong[0]!r} is no whole number: expected some of 0 to {last}.")
    layers: set[int] = set()
    for layer in listed:
        if not -last - 1 <= layer <= last:
            raise RequestError(f"unknown layer {layer}: this model has layers 0 to {last}.")
        layers.add(layer % (last + 1))
    if not layers:
        raise RequestError(f"no layer given: expected some of 0 to {last}.")
    return tuple(sorted(sorted(layers, reverse=True)[::every]))
