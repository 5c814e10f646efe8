"""What a lens file says of its lens in JSON, checked field by field before anything is made of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from midstream.errors import RequestError
from midstream.lens.kind import FARTHEST, parse
from midstream.lens.lens import BUILT_IN, Lens, Source, Transport
from midstream.model.anatomy import ORDER
from midstream.stream.container import damaged

SOURCES: dict[Source, int] = {"stream": 1, "token": 1, "tokens": 4}
"""What a lens can transport -> its width in units of d."""
LONGEST_NAME = 80
_PRINTED, _SHA256 = r"[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*", r"[0-9a-f]{64}"
_MOST_LAYERS = 10_000
_WIDEST = 1 << 20


@dataclass(frozen=True)
class Statement:
    """What a file says of one lens, its tensors apart.

    Attributes:
        maps: layers that have a map.
        shared: whether they share one.
        betas: layers that have a factor.
        width: d of the model.
        baselines: source -> what it says of that baseline.
        back_off: most frequent answer of all and V, where there is a table.
        about: see ``Lens``.
    """

    name: str
    kind: str
    reader: Literal["output", "input"]
    offset: int
    calibrated: bool
    site: str | None
    layers: tuple[int, ...] | None
    source: Source
    maps: tuple[int, ...]
    shared: bool
    betas: tuple[int, ...]
    width: int
    baselines: Mapping[Source, Statement]
    back_off: tuple[int, int] | None
    about: Mapping[str, Any]

    def lens(self, transports: Mapping[int, Transport], betas: Mapping[int, float], **rest: Any) -> Lens:
        """The lens it speaks of, with the tensors it needs; ``rest`` are further fields of ``Lens``."""
        own = ("name", "reader", "offset", "calibrated", "kind", "site", "layers", "source")
        fields = {name: getattr(self, name) for name in own}
        return Lens(**fields, transports=transports, betas=betas, **rest)


def state(lens: Lens) -> dict[str, Any]:
    """What a file says of a lens. Raises RequestError for a name that cannot be shown."""
    if not _name(lens.name):
        raise RequestError(
            f"a lens cannot be named {lens.name[:100]!r}: expected up to {LONGEST_NAME} printed characters."
        )
    moves = list(lens.transports.values())
    return {
        "name": lens.name,
        "kind": lens.kind,
        "reader": lens.reader,
        "offset": lens.offset,
        "calibrated": lens.calibrated,
        "site": lens.site,
        "layers": None if lens.layers is None else list(lens.layers),
        "source": lens.source,
        "maps": sorted(lens.transports),
        "shared": len(moves) > 1 and len({(id(move.weight), id(move.bias)) for move in moves}) == 1,
        "betas": sorted(lens.betas),
        "width": int(moves[0].weight.shape[0]) if moves else int(lens.about.get("width", 0)),
    }


def stated(path: Path, text: Mapping[str, Any]) -> Statement:
    """What a file says of its lens. Raises RequestError, naming the file and the field, where it makes no sense."""
    if "content" in text:
        raise RequestError(f"{path} holds {text['content']!r:.40} and no lens.")
    whole = _one(path, text)
    baselines: dict[Source, Statement] = {}
    given = _field(path, text, "baselines", dict)
    for source in SOURCES:
        if source in given:
            base = _one(path, _field(path, given, source, dict))
            same = (base.reader, base.offset, base.width) == (whole.reader, whole.offset, whole.width)
            if base.source != source or source == "stream" or not same:
                raise damaged(path, f"its baseline {source!r} is none")
            baselines[source] = base
    if len(baselines) < len(given):
        raise damaged(path, "it has baselines of unknown sources")
    table = text.get("back_off")
    if table is not None:
        if not isinstance(table, dict):
            raise damaged(path, "its back_off is no object")
        answer, vocabulary = (_whole(path, table, name) for name in ("answer", "vocabulary"))
        if not 0 <= answer < vocabulary < 1 << 31:
            raise damaged(path, "the answer of its back_off is outside the vocabulary")
        table = (answer, vocabulary)
    about = _field(path, text, "about", dict)
    identity = about.get("identity")
    if not isinstance(identity, str) or len(identity) != 64 or not identity.isalnum():
        raise damaged(path, "it does not say which model it belongs to")
    if not isinstance(about.get("circumstances", {}), dict):
        raise damaged(path, "its circumstances are no object")
    for name, form in (("notes", _PRINTED), ("documents", _SHA256), ("held_out_documents", _SHA256)):
        listed = about.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(one, str) and re.fullmatch(form, one) for one in listed):
            raise damaged(path, f"its {name} are no list of what they should be")
    return replace(whole, baselines=baselines, back_off=table, about=about)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: undefined numbers as null, tuples and arrays as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def printable(value: Any) -> Any:
    """``value``, JSON, with every character in it that cannot be printed spelled out: a hostile file may hold any."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)
    if isinstance(value, Mapping):
        return {printable(str(name)): printable(entry) for name, entry in value.items()}
    return [printable(entry) for entry in value] if isinstance(value, list | tuple) else value


def _one(path: Path, text: Mapping[str, Any]) -> Statement:
    kind, reader, source = (_field(path, text, name, str) for name in ("kind", "reader", "source"))
    name, site, offset = _field(path, text, "name", str), text.get("site"), _whole(path, text, "offset")
    if not _name(name):
        raise damaged(path, "the name of its lens is empty, too long or cannot be printed")
    if reader not in ("output", "input") or source not in SOURCES or (site is not None and site not in ORDER):
        raise damaged(path, f"reader {reader!r:.40}, source {source!r:.40} or site {site!r:.40} is unknown")
    if abs(offset) > FARTHEST + 1:
        raise damaged(path, f"its lens is about a token {offset} away")
    _check_kind(path, kind, reader, offset)
    maps, betas = _layers(path, text, "maps"), _layers(path, text, "betas")
    width = _whole(path, text, "width")
    if not 0 < width <= _WIDEST:
        raise damaged(path, f"it states a width of {width}")
    layers = None if text.get("layers") is None else _layers(path, text, "layers")
    if source != "stream" and maps not in ((), (0,)):
        raise damaged(path, f"it has maps of layers for {source!r}, which is no layer")
    if layers is not None and not {*maps, *betas} <= set(layers):
        raise damaged(path, "it has maps for layers that it does not list")
    shared = _field(path, text, "shared", bool) and bool(maps)
    calibrated = _field(path, text, "calibrated", bool)
    return Statement(
        name, kind, reader, offset, calibrated, site, layers, source, maps, shared, betas, width, {}, None, {}
    )


def _check_kind(path: Path, kind: str, reader: str, offset: int) -> None:
    if not kind:
        return
    try:
        known = BUILT_IN.get(kind) or parse(kind)
    except RequestError as error:
        raise damaged(path, f"its lens is of the unknown kind {kind!r:.40}") from error
    if (known.reader, known.offset) != (reader, offset):
        raise damaged(path, f"its lens is called {kind} and reads something else")


def _layers(path: Path, text: Mapping[str, Any], name: str) -> tuple[int, ...]:
    layers = _field(path, text, name, list)
    if any(type(layer) is not int or not 0 <= layer < _MOST_LAYERS for layer in layers):
        raise damaged(path, f"its {name} are no layers")
    if layers != sorted(set(layers)):
        raise damaged(path, f"its {name} are not in order")
    return tuple(layers)


def _whole(path: Path, text: Mapping[str, Any], name: str) -> int:
    found = text.get(name)
    if type(found) is not int:
        raise damaged(path, f"its {name} is no whole number")
    return found


def _field(path: Path, text: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    found = text.get(name)
    if not isinstance(found, kind):
        raise damaged(path, f"its field {name} is missing or no {kind.__name__}")
    return found


def _name(name: str) -> bool:
    return 0 < len(name) <= LONGEST_NAME and name.isprintable()
