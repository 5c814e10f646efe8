"""One peer's read-out, measured in that peer's own environment; run by peers.py, imports nothing of midstream.

Every peer computes, for the same token ids and all layers: the ten best tokens with their log-probabilities, the next
token's log-probability and rank, entropy, and both KLs to the model's output. What is timed is the way its own
documentation does it, layer by layer where that is possible. The model's forward pass is measured apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

TOP = 10
Ready = tuple[Callable[[], Any], Callable[[Any], Any]]
"""The forward pass, and what makes statistics from its result: for each layer the arrays named in ``COLUMNS``."""
COLUMNS = ("top_ids", "top_logprobs", "logprob", "rank", "entropy", "kl_final_lens", "kl_lens_final")


def statistics(logits: torch.Tensor, final: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """The columns of one layer from logits ``[n, V]`` and the output's log-probabilities ``[n, V]``."""
    logp = logits.log_softmax(-1)
    p = logp.exp()
    best = logp.topk(TOP)
    target = logp.gather(-1, targets[:, None])
    rank = (logp > target).sum(-1) + 1
    difference = final - logp
    reverse = -(p * difference).sum(-1)
    return [best.indices, best.values, target, rank, -(p * logp).sum(-1), (final.exp() * difference).sum(-1), reverse]


def plain(folder: Path, ids: torch.Tensor) -> Ready:
    """transformers: ``output_hidden_states``, then norm and head of each layer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    targets = ids[0].roll(-1)

    def forward() -> Any:
        return model.model(ids, output_hidden_states=True).hidden_states

    def read(streams: Any) -> Any:
        # the last hidden state that transformers returns is already normed
        final = model.lm_head(streams[-1][0]).log_softmax(-1)
        normed = [model.model.norm(h[0]) for h in streams[:-1]] + [streams[-1][0]]
        return [statistics(model.lm_head(h), final, targets) for h in normed]

    return forward, read


def transformer_lens(folder: Path, ids: torch.Tensor) -> Ready:
    """TransformerLens: ``run_with_cache``, ``accumulated_resid``, then ``ln_final`` and ``unembed`` of each layer.

    Its own ``logit_lens`` gives no KL, and best tokens or ranks but not both, so it would take two passes for less.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = TransformerBridge.boot_transformers(
        str(folder),
        hf_model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
        device="cpu",
    )
    targets = ids[0].roll(-1)

    def forward() -> Any:
        return model.run_with_cache(ids)[1]

    def read(cache: Any) -> Any:
        streams = cache.accumulated_resid()
        final = model.unembed(model.ln_final(streams[-1]))[0].log_softmax(-1)
        return [statistics(model.unembed(model.ln_final(h))[0], final, targets) for h in streams]

    return forward, read


def tuned_lens(folder: Path, ids: torch.Tensor) -> Ready:
    """tuned-lens: ``PredictionTrajectory`` with its logit lens; the forward pass inside it is taken off the time."""
    import numpy as np
    from transformers import AutoModelForCausalLM
    from tuned_lens.nn.lenses import LogitLens
    from tuned_lens.plotting import PredictionTrajectory

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lens = LogitLens.from_model(model)
    listed, targets = ids[0].tolist(), ids[0].roll(-1).tolist()

    def read(_: Any) -> Any:
        # without its tokenizer it makes no labels, which it would make again for every statistic
        found = PredictionTrajectory.from_lens_and_model(lens, model, input_ids=listed, targets=targets)
        logp = found.log_probs
        best = np.argpartition(logp, -TOP, axis=-1)[..., -TOP:]
        values = np.take_along_axis(logp, best, axis=-1)
        order = np.argsort(-values, axis=-1)
        best, values = np.take_along_axis(best, order, axis=-1), np.take_along_axis(values, order, axis=-1)
        reverse = (found.probs * (logp - found.model_log_probs)).sum(-1)
        ranks, entropy, kl = found.rank().stats, found.entropy().stats, found.forward_kl().stats
        return list(zip(best, values, -found.cross_entropy().stats, ranks, entropy, kl, reverse, strict=True))

    return lambda: model(ids, output_hidden_states=True), read


PEERS = {"plain": plain, "transformer_lens": transformer_lens, "tuned_lens": tuned_lens}


def seconds(act: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def memory(field: str) -> float:
    """``VmRSS`` (held now) or ``VmHWM`` (held at most) of this process, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.read_text().split(f"{field}:")[1].split()[0]) / 1024


def forget_peak() -> None:
    """Lets ``VmHWM`` start again from what is held now, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def middle_layer(layers_read: Any) -> dict[str, float]:
    """The mean of each column at the middle layer, the last position left out: equal for all peers, or one is wrong."""
    middle = layers_read[len(layers_read) // 2]
    return {
        name: round(float(torch.as_tensor(column)[:-1].double().mean()), 4)
        for name, column in zip(COLUMNS, middle, strict=True)
    }


@torch.inference_mode()
def measure(peer: str, folder: Path, ids: torch.Tensor, repeats: int) -> dict[str, Any]:
    """Best of ``repeats`` of the read-out, of the forward pass and of the bare products, taken in turn.

    The best is kind to a peer: its first read-out (``first_seconds``) pays for fresh memory, later ones may find it.
    """
    forward, read = PEERS[peer](folder, ids)
    config = json.loads((folder / "config.json").read_text())
    layers, width, vocabulary = config["num_hidden_layers"] + 1, config["hidden_size"], config["vocab_size"]
    result = forward()
    forget_peak()
    before = memory("VmRSS")
    begun = time.perf_counter()
    layers_read = read(result)
    first = time.perf_counter() - begun
    peak = memory("VmHWM")
    x, weight = torch.randn(ids.shape[1], width), torch.randn(vocabulary, width)

    def products() -> None:
        for _ in range(layers):
            torch.mm(x, weight.T)

    times = [(seconds(products), seconds(forward), seconds(lambda: read(result))) for _ in range(repeats)]
    bare, passed, taken = (min(column) for column in zip(*times, strict=True))
    taken -= passed if peer == "tuned_lens" else 0.0
    return {
        "part": "peers",
        "name": peer,
        "tokens": ids.shape[1],
        "seconds": taken,
        "products_seconds": bare,
        "multiple": taken / bare,
        "first_seconds": first,
        "forward_seconds": passed,
        "memory_mb": peak - before,
        "peak_mb": peak,
        "middle_layer": middle_layer(layers_read),
        "torch": torch.__version__,
    }


def main() -> None:
    """Prints one JSON line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("peer", choices=PEERS)
    options.add_argument("--model", type=Path, required=True, help="folder with config.json and model.safetensors")
    options.add_argument("--text", type=Path, required=True)
    options.add_argument("--tokens", type=int, default=256)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(given.model / "tokenizer.json")).encode(given.text.read_text("utf-8")).ids
    if len(found) < given.tokens:
        raise SystemExit(f"{given.text} holds {len(found)} tokens, fewer than {given.tokens}.")
    print(json.dumps(measure(given.peer, given.model, torch.tensor([found[: given.tokens]]), given.repeats)))


if __name__ == "__main__":
    main()
