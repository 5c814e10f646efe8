"""What a lens file is, in words and numbers, without a model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from midstream.errors import RequestError
from midstream.lens.file.artifact import opened
from midstream.lens.file.statement import Statement, printable
from midstream.lens.lens import spans

_SOURCES = {"stream": "the stream", "token": "the token read", "tokens": "the last four tokens"}


def describe(path: str | Path) -> dict[str, Any]:
    """What the file says, by name, in the order in which it is shown; JSON values without control characters.

    Raises RequestError as ``artifact.load`` does, but for numbers that only reading the tensors would show.
    """
    if Path(path).suffix == ".pt" or os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises for a name too long
        raise RequestError(
            f"{path} is no lens file of midstream's: --lens reads what other tools made, with its model."
        )
    container, found = opened(path)
    with container.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    counts = {name: entry.shape[0] for name, entry in container.entries.items() if len(entry.shape)}
    said = {
        "file": str(path),
        "bytes": container.path.stat().st_size,
        "sha256": digest,
        "kind": found.kind,
        "name": found.name,
        "reads": _reads(found),
        "site": found.site or "any",
        "layers": "all" if found.layers is None else spans(found.layers),
        "maps": "one for all layers" if found.shared else spans(found.maps) if found.maps else "none",
        "calibrated": found.calibrated,
        "width": found.width,
        "baselines": [_SOURCES[source] for source in found.baselines],
        "back-off pairs": counts.get("back_off.pairs", 0),
        "documents": counts.get("documents", 0),
        "held out": counts.get("held_out_documents", 0),
    }
    about = dict(found.about)
    first = {name: about.pop(name) for name in ("model", "identity", "circumstances") if name in about}
    return printable(said | first | {name: value for name, value in about.items() if name not in said})


def _reads(found: Statement) -> str:
    """What a reading is about, in words."""
    offset = found.offset
    about = {1: "the next token", 0: "the token read"}.get(
        offset, f"the token {offset} ahead" if offset > 1 else f"the token {-offset} back"
    )
    through = "unembedding" if found.reader == "output" else "input embedding"
    return f"{about} (offset {offset:+d}) from {_SOURCES[found.source]}, through the {through}"
