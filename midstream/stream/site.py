"""Where in a block the stream is seen: checks a layer and a site, and finds their tap."""

from __future__ import annotations

from midstream.errors import RequestError, choices
from midstream.model.addition import Tap
from midstream.model.anatomy import Anatomy

Place = tuple[int, str]
"""A layer and a site."""


def check(anatomy: Anatomy, layer: int, site: str) -> None:
    """Raise RequestError, listing what there is, unless the model has ``site`` at ``layer``."""
    if site not in anatomy.sites:
        raise choices(f"site of a {anatomy.family} model", site, anatomy.sites)
    lowest = 0 if site == "resid_post" else 1
    if not lowest <= layer <= anatomy.layers:
        raise RequestError(
            f"unknown layer {layer} for {site}: expected {lowest} to {anatomy.layers}, the last; "
            "layer 0 is what enters block 1 and has resid_post only."
        )


def tap(anatomy: Anatomy, layer: int, site: str) -> Tap:
    """Where ``site`` of ``layer`` is seen. Raises RequestError as ``check`` does."""
    check(anatomy, layer, site)
    return Tap(anatomy.blocks[0], "input") if layer == 0 else anatomy.taps[layer - 1][site]
