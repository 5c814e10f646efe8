"""Edits in a file: what they are as JSON, their vectors as tensors, in one sealed safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.stream.change import KINDS, What
from midstream.stream.container import damaged, read, write
from midstream.stream.edit import Edit, Positions

_MOST = 100_000
"""Edits, layers or positions in a file."""

_LONGEST = 500
"""Characters of the ``repr`` of a kind of the user's own."""


def save_edits(path: str | Path, edits: Sequence[Edit]) -> str:
    """Write edits to one ``.safetensors`` file, whole or not at all, vectors as float32 (wider ones as float64).

    Returns the sha256 of the file in hex. Raises RequestError when nothing can be written there.
    """
    tensors: dict[str, Tensor] = {}
    listed = [_stated(edit, f"edit {number + 1}", tensors) for number, edit in enumerate(edits)]
    return write(path, tensors, {"kind": "edits", "edits": listed})


def load_edits(path: str | Path) -> list[Edit]:
    """The edits in a file that ``save_edits`` wrote. Raises RequestError for any other file and a damaged one."""
    container = read(path)
    listed = container.text.get("edits")
    if container.text.get("kind") != "edits" or not isinstance(listed, list) or len(listed) > _MOST:
        raise RequestError(f"{path} holds no edits: expected a file that save_edits wrote.")
    tensors = container.tensors()
    try:
        return [_edit(stated, tensors) for stated in listed]
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, RequestError) as error:
        raise damaged(Path(path), f"an edit in it cannot be understood ({str(error)[:150]})") from error


def stated(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """The edits as JSON values for a provenance: each vector as its shape and the sha256 of its bytes.

    A kind of the user's own, which no file holds, is its class's name and its ``repr``.
    """
    tensors: dict[str, Tensor] = {}
    listed = [
        _stated(edit, f"edit {number + 1}", tensors) if type(edit.what) in KINDS.values() else _own(edit)
        for number, edit in enumerate(edits)
    ]
    for entry in listed:
        for name, value in entry["what"].items():
            if isinstance(value, dict):
                tensor = tensors[value["tensor"]].detach().cpu().contiguous()
                digest = hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
                entry["what"][name] = {"shape": list(tensor.shape), "sha256": digest}
    return listed


def _stated(edit: Edit, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The edit as JSON; its tensors are put beside it."""
    kind = next((name for name, kind in KINDS.items() if type(edit.what) is kind), None)
    if kind is None:
        raise RequestError(f"{name} is of a kind that no file holds ({type(edit.what).__name__}).")
    what: dict[str, Any] = {"kind": kind}
    for entry in fields(edit.what):  # pyright: ignore[reportArgumentType]  every kind is a dataclass
        value = getattr(edit.what, entry.name)
        if isinstance(value, Tensor):
            what[entry.name] = {"tensor": f"{name}, {entry.name}"}
            wide = torch.float64 if value.dtype == torch.float64 else torch.float32
            tensors[f"{name}, {entry.name}"] = value.to(wide)
        else:
            what[entry.name] = value
    return {**_places(edit), "what": what}


def _own(edit: Edit) -> dict[str, Any]:
    kind = type(edit.what)
    what = {"kind": f"{kind.__module__}.{kind.__qualname__}", "repr": shorten(repr(edit.what), _LONGEST)}
    return {**_places(edit), "what": what}


def _places(edit: Edit) -> dict[str, Any]:
    places = {"site": edit.site, "layers": list(edit.layers), "positions": _json(edit.positions)}
    return {**places, "texts": _json(edit.texts)}


def _json(places: Positions) -> list[int] | str | None:
    return list(places) if isinstance(places, tuple) else places


def _edit(stated: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    what = dict(stated["what"])
    kind = KINDS[what.pop("kind")]
    values = {name: tensors[value["tensor"]] if isinstance(value, dict) else value for name, value in what.items()}
    positions = stated["positions"]
    made: What = kind(**values)
    return Edit(
        str(stated["site"]),
        _indices(stated["layers"]),
        positions if positions in (None, "new") else _indices(positions),
        made,
        None if stated["texts"] is None else _indices(stated["texts"]),
    )


def _indices(listed: Any) -> tuple[int, ...]:
    if not isinstance(listed, list) or len(listed) > _MOST or not all(type(index) is int for index in listed):
        raise ValueError(f"expected whole numbers, not {str(listed)[:40]}")
    return tuple(listed)
