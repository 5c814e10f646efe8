"""Capture the residual stream: any layers, any sites, one forward pass that runs no further than it must."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from midstream.model.forward import seen
from midstream.model.model import Model
from midstream.stream.site import tap


def capture(
    model: Model,
    ids: Tensor,
    *,
    layers: Sequence[int],
    site: str = "resid_post",
    mask: Tensor | None = None,
    cache: object | None = None,
) -> dict[int, Tensor]:
    """The stream at ``site`` of each of ``layers``: layer -> ``[b, t, d]``; arguments as in ``capture_sites``."""
    wanted = [(layer, site) for layer in layers]
    return {layer: value for (layer, _), value in capture_sites(model, ids, wanted, mask=mask, cache=cache).items()}


def capture_sites(
    model: Model,
    ids: Tensor,
    wanted: Sequence[tuple[int, str]],
    *,
    mask: Tensor | None = None,
    cache: object | None = None,
) -> dict[tuple[int, str], Tensor]:
    """The stream at every (layer, site) of ``wanted``, ``[b, t, d]`` in the model's dtype, safe to keep.

    Args:
        ids: ``[b, t]`` int64, on the model's device.
        mask: 1 at real tokens, 0 at padding on the left or right: ``[b, t]``, or ``[b, p + t]`` over a cache that
            holds p positions. Values at padding mean nothing.
        cache: from ``model.forward.new_cache``: continue after what it holds and fill it. Without one, the pass ends
            at the last place wanted.

    Raises:
        RequestError: for a layer or site that the model does not have, listing those it has.
    """
    places = list(dict.fromkeys(wanted))
    taps = [tap(model.anatomy, layer, site) for layer, site in places]
    return dict(zip(places, seen(model.anatomy, ids, taps, mask=mask, cache=cache), strict=True))
