"""What a lens is: for each layer an affine map, a reader, and an offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from midstream.errors import choices


@dataclass(frozen=True)
class Transport:
    """The affine map ``h -> A h + b`` of one layer: ``weight`` A is ``[d, d]``, ``bias`` b is ``[d]`` or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        """Rows ``h`` ``[n, d]`` float32, transported: ``[n, d]``."""
        moved = h @ self.weight.T
        return moved if self.bias is None else moved + self.bias


@dataclass(frozen=True)
class Lens:
    """A way to read the stream. Kinds of lens differ only in how their transports were fitted.

    Attributes:
        name: shown beside every number it gives.
        reader: ``output`` scores against the unembedding (final norm included), ``input`` against the input rows.
        offset: which token, relative to the position read, the reading is about: +1 the next one, 0 the input.
        transports: layer -> map applied before the reader; a layer without one is read as it is.
        calibrated: whether log-probabilities mean something; the unfitted input lens only ranks.
        digest: hash of the file it came from, empty for a lens that needs none.
    """

    name: str
    reader: Literal["output", "input"]
    offset: int
    transports: Mapping[int, Transport] = field(default_factory=dict)
    calibrated: bool = True
    digest: str = ""

    def transport(self, layer: int, h: Tensor) -> Tensor:
        """The stream ``h`` ``[n, d]`` of ``layer`` in float32, moved to where the reader expects it: ``[n, d]``."""
        h = h.float()
        move = self.transports.get(layer)
        return h if move is None else move(h)


LOGIT = Lens("logit", "output", 1)
"""The logit lens (nostalgebraist 2020): the model's own final norm and unembedding at every layer."""

INPUT = Lens("input", "input", 0, calibrated=False)
"""The unfitted input lens: the nearest input embedding row; ranks only, log-probabilities are undefined."""

BUILT_IN = {lens.name: lens for lens in (LOGIT, INPUT)}
"""The lenses that need no file."""


def built_in(name: str) -> Lens:
    """The lens of that name. Raises RequestError, listing the names, where there is none."""
    if name not in BUILT_IN:
        raise choices("lens", name, BUILT_IN)
    return BUILT_IN[name]
