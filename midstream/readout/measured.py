"""How far each statistic was off float64 under ``fast``, on real streams: part of every result's provenance.

Printed by ``bench/readout.py --errors``: the default model, all 31 layers of 256 tokens of a licence (7,936 rows),
V = 49,152, d = 576. The largest errors of log-probabilities are of ones beyond 1 nat, where the promise is relative.
Low ranks that differ do so among tokens whose logits differ by less than 1e-3, under ``exact`` as well.
"""

from __future__ import annotations

FAST: dict[str, dict[str, float]] = {
    "lse": {"mean": 2.1e-05, "max": 2.1e-03},
    "entropy": {"mean": 7.6e-05, "max": 3.9e-03},
    "kl_final_lens": {"mean": 2.8e-05, "max": 2.1e-03},
    "kl_lens_final": {"mean": 7.2e-05, "max": 5.4e-03},
    "kl_input_lens": {"mean": 2.4e-05, "max": 2.2e-03},
    "logprob": {"mean": 2.0e-05, "max": 2.2e-03},
    "top_logprobs": {"mean": 2.1e-05, "max": 2.2e-03},
    "rank to 32, relative": {"mean": 0.0, "max": 0.0},
    "rank above 32, relative": {"mean": 2.4e-03, "max": 6.4e-02},
}
"""Mean and largest error, nats; for ranks relative to the rank."""
