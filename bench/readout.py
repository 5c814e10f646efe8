"""midstream's read-out on real streams: time as a multiple of the bare float32 products, memory, and errors.

Everything is measured in one process, in turn: the bare products ``[n, d] @ [d, V]`` of every layer, the read-out of
all statistics in both precisions, and plain code that makes the same statistics layer by layer from all logits.
Prints a JSON line each. Errors are those against float64; ``midstream/readout/measured.py`` holds what was printed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from peer import forget_peak, memory, statistics

from midstream.model.load import load
from midstream.readout import reference
from midstream.readout.read import Rows, read, top1
from midstream.readout.reader import Reader, output_reader
from midstream.stream.capture import capture

TEXT = Path(__file__).parent.parent / "LICENSE"
TOP = 10
NAMED = 3
"""Named tokens of a row, as a reading has them: the next one, the output's first choice, the one read."""


class Streams:
    """The prepared vectors of every layer of the default model for a text, and what a reading asks about them."""

    def __init__(self, text: str, tokens: int) -> None:
        model = load()
        ids = torch.tensor([model.tokenizer.encode(text).ids[: tokens + 1]])
        streams = capture(model, ids[:, :-1], layers=range(model.anatomy.layers + 1))
        self.reader: Reader = output_reader(model.anatomy)
        self.x = [self.reader.prepare(h[0]) for h in streams.values()]
        self.next, self.here = ids[0, 1:], ids[0, :-1]

    def read(self, precision: Any) -> Any:
        """Every statistic of every layer, as a reading makes them."""
        final = self.x[-1]
        choice = top1(self.reader, final, precision=precision)
        tokens = torch.stack([self.next, choice, self.here], 1)
        rows = [Rows(x, tokens, None, self.x[0]) for x in self.x]
        return read(self.reader, rows, reference=final, top_k=TOP, precision=precision)

    def products(self) -> None:
        """What no read-out can do without: one product a layer."""
        for x in self.x:
            torch.mm(x, self.reader.weight.T)

    def plain(self) -> None:
        """The same statistics from all logits of one layer at a time."""
        final = (self.x[-1] @ self.reader.weight.T).log_softmax(-1)
        for x in self.x:
            statistics(x @ self.reader.weight.T, final, self.next)


def seconds(act: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def times(streams: Streams, repeats: int) -> None:
    """A line a way: best of ``repeats`` taken in turn, its multiple of the products, and the memory of its first call.

    The first call compiles, and rounds the weights for ``fast``: what it takes is kept, and later calls take no more.
    """
    ways = {"midstream exact": lambda: streams.read("exact"), "midstream fast": lambda: streams.read("fast")}
    held: dict[str, float] = {}
    for name, act in ways.items():
        forget_peak()
        before = memory("VmRSS")
        act()
        held[name] = memory("VmHWM") - before
    ways["plain code, same process"] = streams.plain
    taken = [
        {name: seconds(act) for name, act in {"products": streams.products, **ways}.items()} for _ in range(repeats)
    ]
    best = {name: min(run[name] for run in taken) for name in taken[0]}
    for name in ways:
        line = {"name": name, "tokens": len(streams.here), "seconds": best[name], "memory_mb": held.get(name)}
        print(json.dumps(line | {"products_seconds": best["products"], "multiple": best[name] / best["products"]}))


def errors(streams: Streams, precision: str) -> dict[str, dict[str, float]]:
    """Mean and largest error of each statistic against float64, in nats, over every layer and position."""
    with torch.inference_mode():
        final = reference.logits(streams.reader, streams.x[-1])
        first = reference.logits(streams.reader, streams.x[0])
    off: dict[str, list[Any]] = {}
    choice = final.argmax(1)
    tokens = torch.stack([streams.next, choice, streams.here], 1)
    for x, found in zip(streams.x, streams.read(precision), strict=True):
        for part in torch.arange(len(x)).split(64):
            z = reference.logits(streams.reader, x[part])
            truth = reference.statistics(z, tokens[part], reference=final[part], base=first[part], top_k=TOP)
            at = part.numpy()
            for name in ("lse", "entropy", "kl_final_lens", "kl_lens_final", "kl_base", "logprob", "top_logprobs"):
                off.setdefault(name, []).append(np.abs(getattr(found, name)[at] - getattr(truth, name)).ravel())
            ranks = np.abs(found.rank[at] / truth.rank - 1).ravel()
            low = truth.rank.ravel() <= 32
            off.setdefault("rank to 32, relative", []).append(ranks[low])
            off.setdefault("rank above 32, relative", []).append(ranks[~low])
            off.setdefault("top-10 ids, share not equal", []).append((found.top_ids[at] != truth.top_ids).ravel())
    return {
        name: {"mean": float(f"{np.mean(all_):.1e}"), "max": float(f"{np.max(all_):.1e}")}
        for name, all_ in ((name, np.concatenate(parts).astype(float)) for name, parts in off.items())
    }


def main() -> None:
    """Prints the lines."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", nargs="+", type=int, default=[256, 1024])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--text", type=Path, default=TEXT)
    options.add_argument("--errors", action="store_true", help="errors against float64 instead of times")
    given = options.parse_args()
    text = given.text.read_text("utf-8")
    for tokens in given.tokens:
        streams = Streams(text, tokens)
        if given.errors:
            for precision in ("exact", "fast"):
                print(json.dumps({"precision": precision, "tokens": tokens, "errors": errors(streams, precision)}))
        else:
            times(streams, given.repeats)


if __name__ == "__main__":
    main()
