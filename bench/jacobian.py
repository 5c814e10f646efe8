"""How near a sketched Jacobian comes to an exact one, and at what cost; resumable, and meant to run for hours.

``python bench/jacobian.py --corpus corpus.txt --state folder`` fits the exact Jacobian on ``--exact`` prompts (d passes
each) and the sketch with ``--passes`` passes on other prompts, both drawn from the corpus by seed. What is done lies in
the folder, so that a run that was stopped goes on where it was. A JSON line a result is written to ``results.jsonl``:
cosines by layer of the two halves of the exact fit, and at each checkpoint of the sketch its cosines to the exact fit,
those divided by the halves' own, and what theory says of it and of independent signs. Both fits are kept as lens files
for ``midstream score``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from midstream.corpus.source import open_corpus
from midstream.lens.file.artifact import about, save
from midstream.lens.fit.jacobian import LENGTH, ROUNDS, Sketch, exact_jacobian, prompts, schedule
from midstream.lens.lens import Lens, Transport
from midstream.model.load import load
from midstream.model.model import Model

CHECKPOINTS = (90, 180, 360, 720, 1440, 2880)


def drawn(model: Model, corpus: str, seed: int) -> list[list[int]]:
    """The documents of the corpus that are long enough, shuffled."""
    encoded = (model.tokenizer.encode(document.text).ids for document in open_corpus(corpus))
    kept = [list(ids[:LENGTH]) for ids in encoded if len(ids) >= LENGTH]
    return [kept[i] for i in np.random.default_rng(seed).permutation(len(kept))]


class State:
    """What lies in the folder: tensors and counts, each file written whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = folder / "results.jsonl"

    def load(self, name: str, layers: int, d: int) -> dict[str, Tensor]:
        path = self.folder / f"{name}.state"
        if path.exists():
            return load_file(path)
        zeros = {part: torch.zeros(layers, d, d) for part in ("even", "odd")}  # of the exact fit
        return {**zeros, "counts": torch.zeros(3, dtype=torch.float64)}  # prompts, passes, seconds

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        new = self.folder / f"{name}.new"
        save_file(tensors, new)
        new.replace(self.folder / f"{name}.state")

    def write(self, line: dict[str, object]) -> None:
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """By layer, of ``[L, d, d]``."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    return (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)


def rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def exact(model: Model, state: State, found: Tensor) -> dict[str, Tensor]:
    """Sums over the prompts of even and odd number, prompt by prompt."""
    kept = state.load("exact", model.anatomy.layers, model.anatomy.width)
    for number in range(int(kept["counts"][0]), len(found)):
        begun = time.perf_counter()
        kept["odd" if number % 2 else "even"] += exact_jacobian(model, found[number]).cpu()
        seconds = time.perf_counter() - begun
        kept["counts"] += torch.tensor([1, model.anatomy.width, seconds], dtype=torch.float64)
        state.keep("exact", kept)
        state.write({"exact": number + 1, "seconds_a_pass": round(seconds / model.anatomy.width, 3)})
    return kept


def sketched(model: Model, state: State, found: Tensor, passes: int, seed: int, judge: Judge) -> Sketch:
    """The sketch on ``found``, judged at every checkpoint that it reaches."""
    kept = state.load("sketch", model.anatomy.layers, model.anatomy.width)
    before, done, seconds = (float(value) for value in kept["counts"])
    if before and "basis" not in kept:
        raise SystemExit(f"{state.folder} holds a sketch of another kind: give an empty folder.")
    sketch = (
        Sketch(kept["sums"].to(model.device), kept["basis"], seed, int(before), int(done))
        if before
        else Sketch.begin(model, seed)
    )
    for batch, share in schedule(found, passes):
        if before > 0:  # the schedule is the same in every run
            before -= len(batch)
            continue
        begun, last = time.perf_counter(), sketch.passes
        sketch.add(model, batch, share)
        seconds += time.perf_counter() - begun
        reached = [point for point in (*CHECKPOINTS, passes) if last < point <= sketch.passes]
        if reached or sketch.prompts % 24 == 0:
            counts = torch.tensor([sketch.prompts, sketch.passes, seconds], dtype=torch.float64)
            state.keep("sketch", {"sums": sketch.sums.cpu(), "basis": sketch.basis, "counts": counts})
        if reached:
            state.write(judge.line(sketch) | {"seconds_a_pass": round(seconds / sketch.passes, 3)})
    return sketch


class Judge:
    """The exact fit, its two halves, and what they say about a sketch."""

    def __init__(self, sums: dict[str, Tensor]) -> None:
        count = int(sums["counts"][0])
        self.count, self.d = count, sums["even"].shape[-1]
        self.mean = (sums["even"] + sums["odd"]) / count
        even, odd = sums["even"] / ((count + 1) // 2), sums["odd"] / (count // 2)
        self.halves = cosine(even, odd)
        # between prompts: |A - B|² = σ² (1/m + 1/n) for the means of m and n prompts
        self.scatter = (even - odd).double().square().sum((1, 2)) / (1 / ((count + 1) // 2) + 1 / (count // 2))
        self.size = self.mean.double().square().sum((1, 2)) - self.scatter / count

    def predicted(self, passes: int) -> Tensor:
        """The cosine of a sketch to what it estimates, from the table of docs/jacobian.md."""
        share, d = min(1.0, passes / self.d), self.d
        trace = self.mean.double().diagonal(dim1=1, dim2=2).sum(1)
        noise = self.scatter * (share if share < 1 else d / passes)
        dot = (1 - share) * trace + share * self.size
        square = d + 2 * share * (trace - d) + share * (self.size - 2 * trace + d) + noise
        return dot / (square * self.size).sqrt()

    def line(self, sketch: Sketch) -> dict[str, object]:
        passes, d = sketch.passes, self.d
        got = sketch.jacobian().cpu()
        found = cosine(got, self.mean)
        own = (1 + self.scatter / self.size / self.count).rsqrt()  # of the exact fit to what it estimates
        third = slice(2 * len(found) // 3, None)
        return {
            "passes": passes,
            "prompts": sketch.prompts,
            "last_third_least": round(float(found[third].min()), 4),
            "cosine": rounded(found),
            "over_halves": rounded(found / self.halves),
            "error": rounded((got - self.mean).double().norm(dim=(1, 2)) / self.mean.double().norm(dim=(1, 2))),
            "theory": rounded(self.predicted(passes) * own),
            "theory_signs": rounded((1 + (d - 1 + self.scatter / self.size * d) / passes).rsqrt() * own),
        }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--corpus", required=True)
    options.add_argument("--state", type=Path, required=True)
    options.add_argument("--exact", type=int, default=10, help="prompts of the exact fit, 2 or more")
    options.add_argument("--passes", type=int, default=CHECKPOINTS[-1])
    options.add_argument("--model")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    model = load(given.model)
    state = State(given.state)
    texts = drawn(model, given.corpus, given.seed)
    judge = Judge(exact(model, state, prompts(texts[: given.exact], given.exact)))
    state.write({"exact_halves": rounded(judge.halves), "prompts": given.exact})
    rest = prompts(texts[given.exact :], -(-given.passes // ROUNDS))
    sketch = sketched(model, state, rest, given.passes, given.seed, judge)
    for name, maps in (("exact", judge.mean), ("sketched", sketch.jacobian().cpu())):
        moves = {layer: Transport(weight) for layer, weight in enumerate(maps)}
        layers = tuple(range(model.anatomy.layers + 1))
        facts = about(model) | {"fit": {"method": name, "bench": True}}
        lens = Lens(
            f"jacobian {name}", "output", 1, moves, kind="jacobian", site="resid_post", layers=layers, about=facts
        )
        save(lens, given.state / f"{name}.safetensors")


if __name__ == "__main__":
    main()
