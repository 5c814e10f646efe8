"""A tuned lens fitted by midstream, or plain least squares as a notebook would do it: one process, one JSON line.

``tuned``   ``midstream fit tuned`` through the same call as the command line's
``stored``  the activations of all layers kept in float32, then ``torch.linalg.lstsq`` of each layer

Time runs from the loaded model to the last map: calibration, passes over the text, solving and the KL stage are in it,
the scores that midstream makes of a finished lens are not (``wall`` holds them too). The peak is of that same span.
Tokens are counted twice: distinct tokens of the text that were read, held-out ones among them, and those that went
through the model, some of them again (windows overlap, and the KL stage reads anew).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from peer import forget_peak, memory

from midstream.corpus.source import open_corpus
from midstream.lens.kind import parse
from midstream.lens.passage import MIN_CONTEXT
from midstream.model.load import load
from midstream.run.fit import fit
from midstream.run.fit_plan import FitOptions, plan
from midstream.run.fit_progress import Update
from midstream.stream.capture import capture

Line = dict[str, Any]


class Clock:
    """Follows a fit: seconds of each stage, and tokens that went through the model, until it is only scored."""

    def __init__(self, model: Any) -> None:
        self.begun = time.perf_counter()
        self.starts: dict[str, float] = {}
        self.forward, self.now = 0, 0
        self.peak = 0.0
        model.anatomy.embedding.register_forward_pre_hook(self.count)
        forget_peak()

    def count(self, _: Any, inputs: tuple[torch.Tensor]) -> None:
        """A forward pass begins."""
        self.now += inputs[0].numel()

    def __call__(self, update: Update) -> None:
        if update.note or update.stage in self.starts:
            return
        self.starts[update.stage] = time.perf_counter() - self.begun
        if update.stage == "scoring":
            self.forward, self.peak = self.now, memory("VmHWM")

    def line(self) -> Line:
        """What it saw."""
        names, at = list(self.starts), list(self.starts.values())
        stages = {name: round(end - start, 1) for name, start, end in zip(names, at, at[1:], strict=False)}
        return {"seconds": round(at[-1], 2), "stages": stages, "tokens_forward": self.forward, "peak_mb": self.peak}


def tuned(given: argparse.Namespace, model: Any) -> Line:
    """``midstream fit tuned``."""
    options = FitOptions((parse("tuned"),), tokens=given.tokens, out=given.out)
    clock = Clock(model)
    result = fit(model, given.corpus, options, progress=clock)
    wall = time.perf_counter() - clock.begun
    (lens,) = result.lenses
    numbers = lens.about["fit"]["kl"]
    read = sum(len(document.ids) for document in plan(model, open_corpus(given.corpus), options).documents)
    line = {"file": str(result.files["tuned"]), "tokens": read, "wall": round(wall, 2)}
    line |= {"kl_positions": numbers["positions"], "kl_stopped": numbers["stopped"], "problems": result.problems}
    return line | clock.line()


def stored(given: argparse.Namespace, model: Any) -> Line:
    """Least squares on kept activations."""
    from safetensors.torch import save_file

    span = min(model.context, 1024)
    parts, count = [], 0
    for document in open_corpus(given.corpus):
        parts.append(torch.tensor(model.tokenizer.encode(document.text).ids))
        count += len(parts[-1])
        if count >= given.tokens:
            break
    ids = torch.cat(parts)[: given.tokens // span * span].view(-1, span)
    last = model.anatomy.layers
    forget_peak()
    begun = time.perf_counter()
    kept: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(last + 1)}
    for sample in ids:
        for layer, h in capture(model, sample[None], layers=list(kept)).items():
            kept[layer].append(h[0, MIN_CONTEXT:].clone())
    y = torch.cat(kept.pop(last))
    maps: dict[str, torch.Tensor] = {}
    for layer, rows in kept.items():
        x = torch.cat([torch.cat(rows), torch.ones(len(y), 1)], 1)
        found = torch.linalg.lstsq(x, y).solution
        maps[f"weight.{layer}"], maps[f"bias.{layer}"] = found[:-1].T.contiguous(), found[-1].clone()
    seconds, peak = time.perf_counter() - begun, memory("VmHWM")
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "stored.safetensors"
    save_file(maps, file)
    tokens = {"tokens": ids.numel(), "tokens_forward": ids.numel()}
    return {"file": str(file), **tokens, "seconds": round(seconds, 2), "peak_mb": peak}


def main() -> None:
    """Prints the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("tuned", "stored"))
    parser.add_argument("--model", help="as midstream names it; without it the default model")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the lens")
    given = parser.parse_args()
    model = load(given.model)
    before = memory("VmRSS")
    line = {"tuned": tuned, "stored": stored}[given.way](given, model)
    line |= {"peak_mb": round(line["peak_mb"]), "model_mb": round(before), "threads": torch.get_num_threads()}
    print(json.dumps(line | {"asked": given.tokens, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
