"""Capture the residual stream: any layers, any sites, one forward pass that runs no further than it must."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from midstream.model.forward import Sight, seen
from midstream.model.model import Model
from midstream.stream.edit import Edit, Hit, plan
from midstream.stream.site import Place, tap


def capture(
    model: Model,
    ids: Tensor,
    *,
    layers: Sequence[int],
    site: str = "resid_post",
    mask: Tensor | Sight | None = None,
    cache: object | None = None,
) -> dict[int, Tensor]:
    """The stream at ``site`` of each of ``layers``: layer -> ``[b, t, d]``; arguments as in ``capture_sites``."""
    wanted = [(layer, site) for layer in layers]
    return {layer: value for (layer, _), value in capture_sites(model, ids, wanted, mask=mask, cache=cache).items()}


def capture_sites(
    model: Model,
    ids: Tensor,
    wanted: Sequence[Place],
    *,
    mask: Tensor | Sight | None = None,
    cache: object | None = None,
    edits: Sequence[Edit] = (),
) -> dict[Place, Tensor]:
    """The stream at every (layer, site) of ``wanted``, ``[b, t, d]`` in the model's dtype, safe to keep.

    Args:
        ids: ``[b, t]`` int64, on the model's device.
        mask: 1 at real tokens, 0 at padding on the left or right: ``[b, t]``, or ``[b, p + t]`` over a cache that
            holds p positions. Values at padding mean nothing. Or a ``Sight``.
        cache: from ``model.forward.new_cache``: continue after what it holds and fill it. Without one, the pass ends
            at the last place wanted.
        edits: changes to the stream in this pass; what is captured is the value after the edits at its place.

    Raises:
        RequestError: for a layer or site that the model does not have, listing those it has, and for an edit that
            selects nothing, does not fit, or comes after all that is wanted.
    """
    return capture_edited(model, ids, wanted, edits, mask=mask, cache=cache)[0]


def capture_edited(
    model: Model,
    ids: Tensor,
    wanted: Sequence[Place],
    edits: Sequence[Edit],
    *,
    mask: Tensor | Sight | None = None,
    cache: object | None = None,
) -> tuple[dict[Place, Tensor], tuple[Hit, ...]]:
    """As ``capture_sites``, and the record of what the edits hit."""
    places = list(dict.fromkeys(wanted))
    taps = [tap(model.anatomy, layer, site) for layer, site in places]
    made = plan(model.anatomy, edits, (ids.shape[0], ids.shape[1]))
    values = seen(model.anatomy, ids, taps, mask=mask, cache=cache, changes=made.changes)
    return dict(zip(places, values, strict=True)), made.done()
