"""What a user may ask of a reading, checked against the model before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from midstream.errors import RequestError, choices
from midstream.lens.lens import Lens, built_in
from midstream.model.model import Model
from midstream.stream.site import check

Precision = Literal["exact", "fast"]


class ReadOptions(TypedDict, total=False):
    """The options of a reading, the same in Python and on the command line.

    Keys:
        lens: name of a lens, a ``Lens``, or several of either; default ``"logit"``.
        layers: layers to read, 0 to L; default all. Negative ones count from the end, -1 = L.
        every: keep every k-th of them, counted back from the last, which always stays.
        site: place in the block, several, or ``"all"``; default ``"resid_post"``.
        top_k: best tokens kept per row; default 10.
        watch: text of a single token to follow at every layer, or several.
        precision: ``"exact"`` (float32 products) or ``"fast"`` (8-bit screening, float32 decides).
        special: parse special tokens such as ``<|im_end|>`` in the text; default off.
        seed: of every random draw, kept in the provenance; the built-in lenses draw nothing.
    """

    lens: str | Lens | Sequence[str | Lens]
    layers: int | Iterable[int] | None
    every: int
    site: str | Sequence[str]
    top_k: int
    watch: str | Sequence[str]
    precision: Precision
    special: bool
    seed: int | None


@dataclass(frozen=True)
class Request:
    """A reading that the model can give: every name resolved and every number checked.

    Attributes:
        layers: ascending.
        sites: in the order of the model's own computation.
        watch: ids of the watched tokens.
    """

    lenses: tuple[Lens, ...]
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    top_k: int
    watch: tuple[int, ...]
    precision: Precision
    seed: int | None = None

    @property
    def reach(self) -> int:
        """Largest absolute offset of the lenses, in tokens."""
        return max(abs(lens.offset) for lens in self.lenses)


def request(model: Model, options: ReadOptions) -> Request:
    """The checked request. Raises RequestError, naming the valid choices, for anything the model does not have."""
    if unknown := set(options) - set(ReadOptions.__annotations__):
        raise choices("option", min(unknown), ReadOptions.__annotations__)
    last = model.anatomy.layers
    sites = _sites(model, options.get("site", "resid_post"))
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
    return Request(_lenses(options.get("lens", "logit")), layers, sites, top_k, watch, precision, options.get("seed"))


def _lenses(given: str | Lens | Sequence[str | Lens]) -> tuple[Lens, ...]:
    listed = [given] if isinstance(given, (str, Lens)) else list(given)
    if not listed:
        raise RequestError("no lens given: name at least one, for example 'logit'.")
    lenses = [lens if isinstance(lens, Lens) else built_in(lens) for lens in listed]
    if far := [lens for lens in lenses if lens.offset > 1]:
        raise RequestError(f"lens {far[0].name!r} is about the token {far[0].offset} ahead: expected at most 1.")
    names = [lens.name for lens in lenses]
    if len(set(names)) < len(names):
        raise RequestError(f"two lenses of one name among {', '.join(names)}: each lens of a reading needs its own.")
    return tuple(lenses)


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
