"""How far each statistic was off float64 under ``fast``, on real streams: part of every result's provenance.

Printed by ``bench/readout.py --errors``: the default model, all 31 layers of three texts of 300 tokens each (English
prose, a licence, Python code; 27,900 rows), V = 49,152, d = 576. Low ranks that differ do so among tokens whose logits
differ by less than 1e-3, under ``exact`` as well.
"""

from __future__ import annotations

FAST: dict[str, dict[str, float]] = {
    "lse": {"mean": 1.1e-05, "max": 1.6e-03},
    "entropy": {"mean": 4.2e-05, "max": 3.1e-03},
    "kl_final_lens": {"mean": 2.1e-05, "max": 1.5e-03},
    "kl_lens_final": {"mean": 3.9e-05, "max": 6.0e-03},
    "kl_input_lens": {"mean": 1.7e-05, "max": 1.5e-03},
    "logprob": {"mean": 1.1e-05, "max": 1.6e-03},
    "top_logprobs": {"mean": 1.2e-05, "max": 1.6e-03},
    "rank to 32, relative": {"mean": 3.3e-06, "max": 1.1e-01},
    "rank above 32, relative": {"mean": 2.3e-03, "max": 8.5e-02},
}
"""Mean and largest error, nats; for ranks relative to the rank."""
