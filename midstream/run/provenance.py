"""Where a result comes from, written down beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from midstream.lens.read.request import Request
from midstream.model.model import Model
from midstream.record import Provenance
from midstream.stream.edit_file import stated


def provenance(model: Model, request: Request, ids: Sequence[int], command: str) -> Provenance:
    """The provenance of a reading of the tokens ``ids``; the corpus hash is that of their decimal ids.

    ``command`` is what was typed or called.
    """
    return Provenance(
        model=model.name,
        identity=model.fingerprint.identity,
        circumstances={**model.fingerprint.circumstances, "threads": str(torch.get_num_threads())},
        lenses={lens.name: lens.digest for lens in request.lenses},
        corpus=hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest(),
        seed=request.seed,
        command=command,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=_precision(request),
        settings={"edits": stated(request.edits)} if request.edits else {},
    )


def _precision(request: Request) -> dict[str, Any]:
    if request.precision == "exact":
        return {"name": "exact"}
    from midstream.readout.measured import FAST

    return {"name": "fast", "errors": FAST}
