"""pass@k of sketched Jacobians less that of exact ones, over pairs of fits that ``bench/jacobian.py`` has left.

``python bench/jacobian_pairs.py --state A B --prompts multihop.json typo.json`` reads every prompt through both lenses
of each folder. Per item the differences are averaged over the pairs; intervals are over items, by file and together. A
JSON line a result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from midstream.interval import ratio
from midstream.lens.file.find import find_all
from midstream.lens.read.request import request
from midstream.lens.score import prompts
from midstream.lens.score.prompt_file import load as load_prompts
from midstream.model.load import load


def differences(model, folder, items, k):
    """Per item that counts: share of its intermediates within rank k, sketched less exact."""
    lenses = find_all(model, [str(folder / f"{name}.safetensors") for name in ("sketched", "exact")])
    found = prompts.score(model, lenses, items, wanted=request(model, {"lens": lenses}))
    sketched, exact = (found.passed(lens.name, k).diagonal() for lens in lenses)
    return sketched - exact


def line(name, values, more):
    estimate = ratio(
        values,
        np.ones(len(values)),
        clusters=np.arange(len(values)),
        generator=np.random.default_rng(0),
        unit="1",
    )
    points = {part: round(100 * getattr(estimate, part), 2) for part in ("value", "low", "high")}
    print(json.dumps({"prompts": name, "items": len(values), **points, **more}), flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--state", type=Path, nargs="+", required=True)
    options.add_argument("--prompts", type=Path, nargs="+", required=True)
    options.add_argument("--k", type=int, default=10)
    options.add_argument("--model")
    given = options.parse_args()
    model = load(given.model)
    files = {path.stem: load_prompts(path) for path in given.prompts}
    found = {
        (folder.name, name): differences(model, folder, items, given.k)
        for folder in given.state
        for name, items in files.items()
    }
    pairs = [[folder.name] for folder in given.state]
    for chosen in [*pairs, [folder.name for folder in given.state]] if len(pairs) > 1 else pairs:
        means = {name: np.mean([found[folder, name] for folder in chosen], axis=0) for name in files}
        for name, values in {**means, "all": np.concatenate(list(means.values()))}.items():
            line(name, values, {"k": given.k, "pairs": chosen})


if __name__ == "__main__":
    main()
