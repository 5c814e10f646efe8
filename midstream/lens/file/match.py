"""Whether a lens belongs to a model: by identity, and by what the model computes on the probe text."""

from __future__ import annotations

from typing import Any

import torch

from midstream.errors import RequestError
from midstream.lens.file.statement import printable
from midstream.lens.lens import Lens
from midstream.model.model import Model
from midstream.model.probe import FLOAT32, HALF, difference, projections


def match(lens: Lens, model: Model, name: str) -> None:
    """Raises RequestError, with both fingerprints, or the layer and the difference, unless they belong together.

    The projections are computed anew each time (one pass over twenty tokens): a live module can change between two.

    Args:
        name: what the user called the lens.
    """
    fits(lens, model, name)
    dtype = str(lens.about.get("circumstances", {}).get("dtype", ""))
    half = {dtype, str(model.dtype).removeprefix("torch.")} != {"float32"}
    expected = torch.tensor(lens.about["probe"], dtype=torch.float32)
    error = difference(projections(model), expected)
    bound = HALF if half else FLOAT32
    if bool((error <= bound).all()):
        return
    layer = int((~(error <= bound)).float().argmax())
    raise RequestError(
        f"lens {name!r} was made for this model where it computed something else: on a short text the stream at layer "
        f"{layer} differs by {float(error[layer]):.2g} of its size, expected at most {bound:g}{_changed(lens, model)}. "
        "Run the model as it was then, or fit the lens again."
    )


def fits(lens: Lens, model: Model, name: str) -> None:
    """Raises RequestError unless the lens says that it is for this model, or says nothing and has its width, layers and
    site; nothing is computed."""
    parts = model.anatomy
    theirs, ours = lens.about.get("identity", model.fingerprint.identity), model.fingerprint.identity
    if theirs != ours:
        raise RequestError(
            f"lens {name!r} was made for another model: for {_short(lens.about.get('model', 'one'))} with the "
            f"fingerprint {theirs[:16]}, and this is {model.name} with {ours[:16]}. Name that model with --model, or "
            "fit the lens again on this one."
        )
    widths = {move.weight.shape[0] for move in lens.transports.values()} - {parts.width}
    if widths:
        raise RequestError(
            f"lens {name!r} was made for another model: it is for streams of width {min(widths)}, and {model.name} has "
            f"{parts.width}."
        )
    last = max((*lens.transports, *lens.betas, *(lens.layers or ())), default=0)
    blocks = len(lens.about["probe"]) - 1 if "probe" in lens.about else parts.layers
    if last > parts.layers or blocks != parts.layers:
        raise RequestError(
            f"lens {name!r} was made for another model: it is for {max(last, blocks)} blocks, and {model.name} has "
            f"{parts.layers}."
        )
    if lens.site is not None and lens.site not in parts.sites:
        raise RequestError(
            f"lens {name!r} reads at {lens.site}, which {model.name} does not have: it has {', '.join(parts.sites)}."
        )


def _changed(lens: Lens, model: Model) -> str:
    """The circumstances that differ, in words."""
    then, now = lens.about.get("circumstances", {}), model.fingerprint.circumstances
    changed = [f"{key} {_short(then[key])} then, {now[key]} now" for key in now if then.get(key, now[key]) != now[key]]
    return f" ({'; '.join(changed)})" if changed else ""


def _short(said: Any) -> str:
    """What a file says, as it may stand in an error."""
    return printable(str(said)[:80])
