"""The container of lens and edit files: a safetensors file with one JSON text, sealed by a hash over both.

The format's own library writes the entries of its metadata in random order, and equal content should give equal bytes;
so the file is written here, and read by that library once every size has been checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.stored import Entry, header
from midstream.store.write import atomic

FORMAT = "midstream"
VERSION = 1
"""Of the files that are written; files of a later version are refused."""

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
_KEYS = ("format", "seal", "text", "version")
_MOST_HEADER = 16_000_000
"""Bytes that the header may have, text included."""
_DIGITS = 20
"""Of a whole number, sign included: 64 bits."""
_DEEPEST = 20


@dataclass(frozen=True)
class Container:
    """A file whose header has been read and fits the file.

    Attributes:
        text: what the file says, any JSON object.
        entries: its tensors, not yet read.
        seal: sha256 over text and tensors as written; empty in files that other tools made.
    """

    path: Path
    text: dict[str, Any]
    entries: Mapping[str, Entry]
    seal: str
    _stated: str

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors as stored, mapped from disk. Raises RequestError if they are not those that were sealed."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path), framework="pt", device="cpu") as opened:
                found = {name: opened.get_tensor(name) for name in self.entries}
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, str(error)) from error
        if self.seal and _seal(self._stated, found) != self.seal:
            raise damaged(self.path, "its content is not what was written")
        return found


def damaged(path: Path, why: str) -> RequestError:
    """The error for a file whose content is not what it must be."""
    return RequestError(f"{path} cannot be used: {why}. It may be damaged: fetch it or make it again.")


def write(path: str | Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> str:
    """Writes the file whole or not at all; equal content gives equal bytes.

    Args:
        tensors: float64, float32, int64 or uint8.
        text: JSON values without NaN or infinity.

    Returns the sha256 of the file in hex. Raises RequestError when nothing can be written there.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each lies aligned
    stored = {name: tensors[name].detach().to("cpu").contiguous() for name in order}
    stated = json.dumps(text, allow_nan=False, sort_keys=True)
    values = (FORMAT, _seal(stated, stored), stated, str(VERSION))
    head: dict[str, Any] = {"__metadata__": dict(zip(_KEYS, values, strict=True))}
    end = 0
    for name, tensor in stored.items():
        start, end = end, end + tensor.nbytes
        head[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    written = json.dumps(head, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    digest = hashlib.sha256()
    with atomic(path) as place, place.open("wb") as file:
        for part in [len(written).to_bytes(8, "little"), written, *map(_bytes, stored.values())]:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def read(path: str | Path) -> Container:
    """Reads a file's header and text, after the sizes in it have been checked against the file.

    Raises:
        RequestError: there is no such file, it is damaged, or ``write`` did not make it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises for a name that is too long
        raise RequestError(f"there is no file {str(path)!r}.")
    entries = header(path, _MOST_HEADER)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)[:200]) from error
    if metadata.get("format") != FORMAT:
        raise RequestError(
            f"{path} holds tensors but is no file of midstream's: expected one that midstream fit, Lens.save or "
            "save_edits wrote."
        )
    if metadata.get("version") != str(VERSION):
        raise RequestError(
            f"{path} is of version {metadata.get('version', '')[:20]!r}: this midstream reads {VERSION}."
        )
    if extra := set(metadata) - set(_KEYS):
        raise damaged(path, f"its metadata has the unknown entry {min(extra)[:40]!r}")
    stated = metadata.get("text", "")
    try:
        text = json.loads(stated, parse_constant=_number, parse_float=_number, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"what it says of itself is no JSON ({str(error)[:100]})") from error
    if not isinstance(text, dict) or _is_deep(text):
        raise damaged(path, f"what it says of itself is no JSON object, or nested deeper than {_DEEPEST}")
    return Container(path, text, entries, metadata.get("seal", ""), stated)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is no number")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:_DIGITS]}... is too large")
    return int(text)


def _is_deep(value: Any) -> bool:
    """Whether objects and lists lie in each other deeper than anything that walks through them could follow."""
    level = [value]
    for _ in range(_DEEPEST):
        nested = [entry.values() if isinstance(entry, dict) else entry for entry in level]
        level = [entry for entries in nested for entry in entries if isinstance(entry, dict | list)]
    return bool(level)


def _seal(stated: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 in hex over the text and over every tensor's name, type, shape and bytes, by name."""
    digest = hashlib.sha256(stated.encode(errors="surrogatepass"))
    for part in _parts(tensors):
        digest.update(part)
    return digest.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    for name in sorted(tensors):
        yield f"\n{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode()
        yield _bytes(tensors[name])


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
