"""How far each statistic was off float64 under ``fast``, on real streams: part of every result's provenance.

Printed by ``bench/readout.py --errors``: the default model, all 31 layers of two English texts of 256 and 400 tokens
(20,336 rows), V = 49,152, d = 576.
"""

from __future__ import annotations

FAST: dict[str, dict[str, float]] = {
    "lse": {"mean": 6.4e-06, "max": 8.1e-04},
    "entropy": {"mean": 2.2e-05, "max": 1.7e-03},
    "kl_final_lens": {"mean": 1.4e-05, "max": 8.1e-04},
    "kl_lens_final": {"mean": 2.1e-05, "max": 3.8e-03},
    "kl_input_lens": {"mean": 1.6e-05, "max": 8.9e-04},
    "logprob": {"mean": 6.2e-06, "max": 8.1e-04},
    "top_logprobs": {"mean": 6.9e-06, "max": 8.1e-04},
    "rank to 32, relative": {"mean": 0.0, "max": 0.0},
    "rank above 32, relative": {"mean": 2.5e-03, "max": 5.7e-02},
}
"""Mean and largest error, nats; for ranks relative to the rank."""
