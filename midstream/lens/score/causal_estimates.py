"""The causal score as estimates: by layer and over layers, each lens less every one after it, over documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from midstream.interval import paired_ratio, ratio
from midstream.lens.lens import Lens
from midstream.lens.read.request import START
from midstream.lens.score.causal import CausalScore
from midstream.lens.score.estimates import ALL_LAYERS, LEVEL, Scored
from midstream.record import Array, Estimate

UNITS = {"spearman": "1", "effect": "nats"}
"""The correlation of the lens's change of log p with the model's; the model's change beyond that of random moves."""


def estimates(
    found: Mapping[str, CausalScore], lenses: Sequence[Lens], clusters: Sequence[str], *, seed: int
) -> list[Scored]:
    """Means over prefixes, those left out where one is undefined.

    Args:
        found: lens name -> its scores, all of the same prefixes; lenses without any are left out.
        clusters: label of the cluster of each prefix's document.
        seed: of the the bootstraps, which up to 200 clusters have.
    """
    scored = [lens for lens in lenses if lens.name in found]
    made: list[Scored] = []
    for number, lens in enumerate(scored):
        for measure in UNITS:
            own = _by_layer(found[lens.name], measure)
            for other in [None, *scored[number + 1 :]]:
                less = None if other is None else _by_layer(found[other.name], measure)
                rows = {
                    layer: [values, *([less[layer]] if less else [])]
                    for layer, values in own.items()
                    if not less or layer in less
                }
                if len(rows) > 1:
                    rows[ALL_LAYERS] = list(np.mean(list(rows.values()), axis=0))
                for layer, values in rows.items():
                    estimate = _estimate(values, clusters, UNITS[measure], seed)
                    against = other.name if other else ""
                    made.append(Scored(lens.name, layer, lens.site or START[1], measure, against, estimate))
    return made


def _by_layer(score: CausalScore, measure: str) -> dict[int, Array]:
    """layer -> ``[prefixes]``."""
    values = score.correlation if measure == "spearman" else score.excess
    return dict(zip(score.layers, values.T, strict=True))


def _estimate(values: Sequence[Array], clusters: Sequence[str], unit: str, seed: int) -> Estimate:
    counts = np.isfinite(values).all(0).astype(np.int64)
    generator = np.random.default_rng(seed)
    if len(values) == 1:
        return ratio(values[0], counts, clusters=clusters, generator=generator, unit=unit, level=LEVEL)
    return paired_ratio(values, counts, clusters=clusters, generator=generator, unit=unit, level=LEVEL)
