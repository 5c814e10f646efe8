"""A synthetic score table shaped like that of a Llama-style model: seeded, no model."""

from __future__ import annotations

import numpy as np

from midstream.record import SCORE, Provenance, ScoreTable

ABOUT = {"logit": 1, "shortcut": 1, "tuned": 1, "future:1": 2, "input:0": 0}


def score(*, layers: int = 30, clusters: int = 38, prompts: bool = True, causal: bool = True) -> ScoreTable:
    """Five lenses by layer with baselines and paired differences, pass@k of three of them, causal scores of three.

    Fewer than 6 ``clusters`` have no intervals, 6 to 11 have uneven ones.
    """
    made = _Rows(clusters, np.random.default_rng(7))
    depth = np.arange(layers + 1) / layers
    late = 1 / (1 + np.exp(-14 * (depth - 0.8)))
    kl = {"logit": 11 * (1 - late), "shortcut": 3.1 * (1 - depth**2), "tuned": 2.6 * (1 - depth**1.6)}
    for name in kl:
        kl[name] = kl[name] * (depth < 1)
    for measure, bend in (("kl", 1.0), ("cross_entropy", 1.1)):
        for number, (lens, values) in enumerate(kl.items()):
            made.curve(lens, measure, bend * values + (2.4 if measure != "kl" else 0))
            for other in list(kl)[:number]:
                made.curve(lens, measure, bend * (values - kl[other]), against=other)
    made.curve("future:1", "kl", 4.2 - 0.8 * depth)
    agreement = {
        "logit": late,
        "shortcut": 0.3 + 0.7 * depth**2,
        "tuned": 0.36 + 0.64 * depth**2,
        "future:1": 0.2 * late,
    }
    for lens, values in agreement.items():
        made.curve(lens, "agreement", values)
    for base, value in (("token", 0.09), ("tokens", 0.11), ("back-off", 0.13)):
        made.row(f"future:1 | {base}", 0, "agreement", "", value)
        made.curve("future:1", "agreement", agreement["future:1"] - value, against=f"future:1 | {base}")
    made.curve("input:0", "accuracy", 1 - 0.6 * depth**2)
    made.row("input:0 | most frequent", 0, "accuracy", "", 0.05)
    for lens, base in (("logit", 0.2), ("shortcut", 0.24), ("tuned", 0.31)) if prompts else ():
        for k, more in ((1, 1.0), (5, 1.6), (10, 2.1)):
            made.row(lens, -1, f"pass@{k} multihop", "", base * more)
            made.row(lens, -1, f"pass@{k} null multihop", "", 0.04 * more)
            made.row(lens, -1, f"pass@{k} - null multihop", "", (base - 0.04) * more)
    for lens, best in (("logit", 0.3), ("tuned", 0.7)) if causal else ():
        for layer in range(0, layers + 1, max(1, layers // 7)):
            made.row(lens, layer, "spearman", "", best * layer / layers)
            made.row(lens, layer, "effect", "", best * layer / layers / 10)
    return ScoreTable(
        made.columns(), Provenance(model="SmolLM2-135M-Instruct"), ("2 documents were too short.",), layers
    )


class _Rows:
    def __init__(self, clusters: int, rng: np.random.Generator) -> None:
        self.rows, self.clusters, self.rng = [], clusters, rng

    def curve(self, lens: str, measure: str, values: np.ndarray, against: str = "") -> None:
        for layer, value in enumerate(values.tolist()):
            self.row(lens, layer, measure, against, value)
        self.row(lens, -1, measure, against, float(values[:-1].mean()))

    def row(self, lens: str, layer: int, measure: str, against: str, value: float) -> None:
        half = (0.04 * abs(value) + 0.01 * (value != 0)) * (0.4 if against else 1.0)
        more = 1.5 if self.clusters < 12 else 1.0
        low, high = (value - half, value + more * half) if self.clusters >= 6 else (np.nan, np.nan)
        share = measure in ("agreement", "accuracy", "spearman") or measure.startswith("pass")
        self.rows.append(
            {
                "lens": lens, "layer": layer, "site": "resid_post", "measure": measure, "against": against,
                "value": value, "low": low, "high": high, "level": 0.95, "clusters": self.clusters, "documents": 40,
                "tokens": 4000, "method": "jackknife", "unit": "1" if share else "nats", "largest_share": 0.1,
            }
        )  # fmt: skip

    def columns(self) -> dict[str, np.ndarray]:
        kinds = {column.name: object if column.dtype == "str" else column.dtype for column in SCORE}
        return {name: np.array([row[name] for row in self.rows], kind) for name, kind in kinds.items()}
