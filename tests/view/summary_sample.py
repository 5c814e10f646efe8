"""A synthetic summary of a store shaped like that of a Llama-style model: seeded, no model."""

from __future__ import annotations

import numpy as np

from midstream.record import SUMMARY, Provenance, SummaryTable

POSITIONS = tuple(f"{2**k}–{2 ** (k + 1) - 1}" for k in range(2, 10))
SHARES = ("accuracy", "agreement", "input_accuracy")


def summary(
    *,
    by: str = "layer",
    groups: tuple[str, ...] = ("",),
    against: str = "",
    lenses: tuple[str, ...] = ("logit", "tuned"),
    sites: tuple[str, ...] = ("resid_post",),
    layers: int = 30,
    clusters: int = 38,
) -> SummaryTable:
    """Nine measures of each lens and site by layer, in each group; ``against`` makes them differences.

    A difference is planted at layer 12: none before it in the lens's own numbers, one at every layer in the KLs.
    """
    rng = np.random.default_rng(11)
    depth = np.arange(layers + 1) / layers
    rows = []
    for lens in lenses:
        for number, site in enumerate(sites):
            for place, group in enumerate(groups):
                for measure, values in _curves(lens, depth, 1 + 0.06 * place + 0.2 * number).items():
                    if against:
                        late = np.arange(layers + 1) >= (0 if measure.startswith("kl_final") else layers * 12 // 30)
                        values = 0.002 * late * values
                    tokens = 40_000 // (place + 1)
                    for layer, value in enumerate(values.tolist()):
                        rows.append(_row(lens, site, layer, group, measure, against, value, clusters, tokens, rng))
    kinds = {column.name: object if column.dtype == "str" else column.dtype for column in SUMMARY}
    columns = {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    notes = ("positions with fewer than 4 tokens before them are left out.",)
    return SummaryTable(columns, by, Provenance(model="SmolLM2-135M-Instruct"), notes, layers)


def _curves(lens: str, depth: np.ndarray, bend: float) -> dict[str, np.ndarray]:
    late = 1 / (1 + np.exp(-14 * (depth - 0.8)))
    kl = bend * (11 * (1 - late) if lens == "logit" else 2.6 * (1 - depth**1.6)) * (depth < 1)
    share = np.clip((late if lens == "logit" else 0.36 + 0.64 * depth**2) / bend, 0, 1)
    return {
        "logprob": -2.9 - kl, "entropy": 2.8 + 0.3 * kl, "kl_final_lens": kl, "kl_lens_final": 1.1 * kl,
        "final_top1_logprob": -1.2 - kl, "input_logprob": -1 - 12 * depth, "accuracy": 0.4 * share,
        "agreement": share, "input_accuracy": 1 - depth**0.3,
    }  # fmt: skip


def _row(lens, site, layer, group, measure, against, value, clusters, tokens, rng) -> dict:
    half = (0.04 * abs(value) + 0.01 * (value != 0) * (0.01 if against else 1)) * rng.uniform(0.8, 1.2)
    low, high = (value - half, value + half) if clusters >= 6 else (np.nan, np.nan)
    return {
        "lens": lens, "site": site, "layer": layer, "group": group, "measure": measure, "against": against,
        "value": value, "low": low, "high": high, "level": 0.95, "clusters": clusters, "documents": 40,
        "tokens": tokens, "method": "jackknife", "unit": "1" if measure in SHARES else "nats", "largest_share": 0.1,
    }  # fmt: skip
