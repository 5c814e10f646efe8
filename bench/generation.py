"""Greedy generation against transformers', edited against unedited; anchoring in one doubled pass against the loop.

    python bench/generation.py [--tokens 48] [--rounds 5] [--windows 8] [--alone 1]

All on the default model, in one process. In each round every way runs once, in an order that turns round with the
round; a ratio is the median over rounds of the ratio within a round, that of tokens a second. Generation is batch 1 and
ends at no token; the edit adds a random vector at layer 15 on every position. Anchoring is of windows of 128 tokens,
one a passage of examples/; the loop over all of them in one batch is timed whole, the loop one window at a time on
``--alone`` of them. What is compared must be equal: the same tokens, streams within 1e-3. Takes under four minutes.
Prints a JSON line a ratio, then the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from run import Line, generation_rows, table

from midstream.corpus.source import open_corpus
from midstream.model.load import load
from midstream.model.model import Model
from midstream.sample.anchor import Anchor, anchored, anchored_loop, parallel
from midstream.sample.generate import Options, generate
from midstream.stream.change import Add
from midstream.stream.edit import Edit

TEXT = Path(__file__).parent.parent / "examples" / "passages.jsonl"
LAYER = 15
STRENGTH = 0.1
Ways = dict[str, tuple[Callable[[], Any], int]]
"""Name -> what runs, and how many tokens it gets through."""


def documents(model: Model, count: int, tokens: int) -> list[list[int]]:
    """The first tokens of so many passages that are long enough."""
    encoded = (model.tokenizer.encode(document.text).ids for document in open_corpus(TEXT))
    kept = [list(ids[:tokens]) for ids in encoded if len(ids) >= tokens][:count]
    if len(kept) < count:
        raise SystemExit(f"{TEXT} has {len(kept)} passages of {tokens} tokens: expected {count}; ask for fewer.")
    return kept


def speeds(ways: Ways, rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Tokens a second of each way in each round, and what it gave in the last."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Any] = {}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            act, tokens = ways[name]
            begun = time.perf_counter()
            given[name] = act()
            found[name].append(tokens / (time.perf_counter() - begun))
    return found, given


def line(found: dict[str, list[float]], name: str, against: str, wanted: float) -> Line:
    """How many times as fast ``name`` is as ``against``."""
    ratios = [a / b for a, b in zip(found[name], found[against], strict=True)]
    rates = {"per_second": statistics.median(found[name]), "per_second_against": statistics.median(found[against])}
    between = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "rounds": len(ratios)}
    return {"name": name, "against": against, "wanted": wanted, **between, **rates}


def generation(model: Model, theirs: Any, prompt: list[int], tokens: int, rounds: int) -> Iterator[Line]:
    """Our loop against ``generate`` of ``theirs``, the same weights in transformers; under an edit against itself."""
    vector = torch.randn(model.anatomy.width, generator=torch.Generator().manual_seed(0))
    edit = Edit("resid_post", (LAYER,), None, Add(vector, STRENGTH, relative=True))

    def ours(count: int, *edits: Edit) -> list[int]:
        return [step.token for step in generate(model, [prompt], Options(tokens=count, edits=edits))]

    @torch.inference_mode()
    def other(count: int) -> list[int]:
        given = {"attention_mask": torch.ones(1, len(prompt), dtype=torch.long), "eos_token_id": None}
        whole = theirs.generate(
            torch.tensor([prompt]), **given, max_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0
        )
        return whole[0, len(prompt) :].tolist()

    _ = ours(2), ours(2, edit), other(2)  # what is compiled or allocated once
    plain, edited, peer = "greedy loop", "greedy loop, one edit", "transformers' generate"
    ways: Ways = {
        peer: (lambda: other(tokens), tokens),
        plain: (lambda: ours(tokens), tokens),
        edited: (lambda: ours(tokens, edit), tokens),
    }
    found, given = speeds(ways, rounds)
    if given[plain] != given[peer] or len(given[edited]) != tokens:
        raise SystemExit(f"the two loops made other tokens: {given[plain]} and {given[peer]}.")
    yield line(found, plain, peer, 0.95)
    yield line(found, edited, plain, 0.70)


def anchoring(model: Model, windows: list[list[int]], alone: int, rounds: int) -> Iterator[Line]:
    """The doubled pass against the loop, all windows in one batch and one at a time."""
    ids = torch.tensor(windows, device=model.device)
    b, t = ids.shape
    alone = min(alone, b)
    anchor = Anchor(LAYER, STRENGTH, model.anatomy.input_rows)
    if why := parallel(model, anchor, t):
        raise SystemExit(why)
    final = (model.anatomy.layers, "resid_post")

    def doubled() -> torch.Tensor:
        return anchored(model, ids, anchor, torch.ones(b, t, dtype=torch.bool), [final])[final]

    def loop(some: torch.Tensor) -> torch.Tensor:
        return anchored_loop(model, some, anchor, torch.ones(some.shape, dtype=torch.bool), [final])[final]

    doubled()
    loop(ids[:, :3])
    shape = f"{b} windows of {t}"
    pass_, batch = f"anchored in one doubled pass, {shape}", f"loop, {shape} in one batch"
    single = f"loop, one window at a time ({alone} timed)"
    ways: Ways = {
        pass_: (doubled, b * t),
        batch: (lambda: loop(ids), b * t),
        single: (lambda: torch.cat([loop(one) for one in ids[:alone].split(1)]), alone * t),
    }
    found, given = speeds(ways, rounds)
    error = max(float((h - given[pass_][: len(h)]).norm() / h.norm()) for h in (given[batch], given[single]))
    if not error < 1e-3:
        raise SystemExit(f"the doubled pass and the loop give other streams: relative error {error:.1g}.")
    yield line(found, pass_, batch, 2.0) | {"error": error}
    yield line(found, pass_, single, 10.0) | {"error": error}


def main() -> None:
    """Prints the lines and the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=48, help="that are generated")
    options.add_argument("--prompt", type=int, default=12, help="tokens of the prompt")
    options.add_argument("--rounds", type=int, default=5, help="of generation")
    options.add_argument("--windows", type=int, default=8)
    options.add_argument("--length", type=int, default=128, help="tokens of a window")
    options.add_argument("--alone", type=int, default=1, help="windows timed one at a time")
    options.add_argument("--anchor-rounds", type=int, default=3)
    options.add_argument("--model", help="a folder; the bundled default without it")
    given = options.parse_args()
    model = load(given.model)
    (prompt,) = documents(model, 1, given.prompt)
    windows = documents(model, given.windows, given.length)
    lines: list[Line] = []
    for part in (
        generation(model, load(given.model, engine="transformers").module, prompt, given.tokens, given.rounds),
        anchoring(model, windows, given.alone, given.anchor_rounds),
    ):
        for found in part:
            lines.append(found)
            print(json.dumps(found), flush=True)
    print("\n" + table(*generation_rows(lines)))


if __name__ == "__main__":
    main()
