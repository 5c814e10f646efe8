"""What a lens is: for each layer an affine map, a reader, and an offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor


@dataclass(frozen=True)
class Transport:
    """The affine map ``h -> A h + b`` of one layer: ``weight`` A is ``[d, d]``, ``bias`` b is ``[d]`` or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        """Rows ``h`` ``[n, d]`` float32, transported: ``[n, d]``."""
        moved = h @ self.weight.T
        return moved if self.bias is None else moved + self.bias


Source = Literal["stream", "token", "tokens"]
"""What a lens transports: the stream; the input row of the token read; or the rows of it and the three before it, side
by side ``[4 d]``, newest first (zeros before the document). The last two are the baselines of fitted lenses."""


@dataclass(frozen=True, eq=False)
class BackOff:
    """The most frequent answer after the last two tokens, else after the last one, else at all.

    Attributes:
        pairs: ``[p]`` int64 ascending, ``x_{i-1} * V + x_i``; pair_answers ``[p]`` int64.
        singles: ``[s]`` int64 ascending, ``x_i``; single_answers ``[s]`` int64.
        answer: the most frequent answer of all.
        vocabulary: V.
    """

    pairs: Tensor
    pair_answers: Tensor
    singles: Tensor
    single_answers: Tensor
    answer: int
    vocabulary: int


@dataclass(frozen=True)
class Lens:
    """A way to read the stream. Kinds of lens differ only in how their transports were fitted.

    Attributes:
        name: shown beside every number it gives.
        reader: ``output`` scores against the unembedding (final norm included), ``input`` against the input rows.
        offset: which token, relative to the position read, the reading is about: +1 the next one, 0 the input.
        transports: layer -> map applied before the reader; a layer of ``layers`` without one is read as it is.
        calibrated: whether log-probabilities mean something; the unfitted input lens only ranks.
        digest: hash of the file it came from, empty for a lens that needs none.
        kind: what it is, as ``lens.kind.Kind`` writes it, or ``logit``, ``input``.
        site: where it was fitted and reads; None: at any site.
        layers: the layers it can read, ascending; None: all.
        betas: layer -> factor of the input reader's scores; 1 where absent.
        source: what is transported; a lens that does not read the stream has layer 0 only.
        baselines: what it is compared with at equal capacity: the same map fitted on the input rows alone.
        back_off: table of the most frequent answers in the fitted text, where one was made.
        about: the rest of what its file says (JSON values): model, corpus, fit, held-out scores, versions, licence.
    """

    name: str
    reader: Literal["output", "input"]
    offset: int
    transports: Mapping[int, Transport] = field(default_factory=dict, repr=False)
    calibrated: bool = True
    digest: str = ""
    kind: str = ""
    site: str | None = None
    layers: tuple[int, ...] | None = None
    betas: Mapping[int, float] = field(default_factory=dict, repr=False)
    source: Source = "stream"
    baselines: tuple[Lens, ...] = field(default=(), repr=False)
    back_off: BackOff | None = field(default=None, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def reads(self, layer: int, site: str) -> bool:
        """Whether it has a reading at that place."""
        return (self.site is None or site == self.site) and (self.layers is None or layer in self.layers)

    def transport(self, layer: int, h: Tensor) -> Tensor:
        """The stream ``h`` ``[n, d]`` of ``layer`` in float32, moved to where the reader expects it: ``[n, d]``."""
        h = h.float()
        move = self.transports.get(layer)
        return h if move is None else move(h)


LOGIT = Lens("logit", "output", 1, kind="logit")
"""The logit lens (nostalgebraist 2020): the model's own final norm and unembedding at every layer."""

INPUT = Lens("input", "input", 0, calibrated=False, kind="input")
"""The unfitted input lens: the nearest input embedding row; ranks only, log-probabilities are undefined."""

BUILT_IN = {lens.name: lens for lens in (LOGIT, INPUT)}
"""The lenses that need no file."""


def spans(layers: Sequence[int]) -> str:
    """Ascending layers in few words: ``0, 3-8, 30``."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
