"""How soon a tuned lens is as good as the tuned-lens library's: same model, same text, one run, paired intervals.

Parts; each result is a line of JSON in ``--results``, and a part run again replaces its lines:

``peer``     the library's own loop (bench/lens_peer.py) in its own environment: a run for each of ``--seconds`` and
             ``--lr-scale``
``ours``     ``midstream fit tuned`` (bench/lens_ours.py), a process for each of ``--tokens``
``stored``   plain least squares that stores all activations, a process for each of ``--tokens``
``tune``     KL of the peer's runs on ``--tune``, by which ``compare`` takes the best rate for each time
``compare``  KL on ``--held-out`` of every lens made, and each less each after it: ours, stored, peer, logit
``toy``      all of that on a model of 2 blocks, width 64 and 1,000 tokens (bench/toy.py), where the peer makes the
             published number of steps; ours has less than a tenth of its tokens
``table``    writes what was found into docs/performance.md, between markers of its own

Run them on a quiet machine, one after another, with the same ``--work`` folder. KL is that of the model's output from
the lens, nats a token, mean over the layers below the last. The peer is run with freed memory kept in its process,
which makes its steps cheaper and its peak higher; ``--memory-returned`` runs it as it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import python_of, weights
from run import PAGE, Line, machine, table

HERE = Path(__file__).parent
KEPT = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
MAKERS = ("ours", "stored", "peer")
"""Parts that make lenses."""
STEPS = 250
"""Of the published recipe: the library's default for num_steps; its default for a step is 2^18 tokens."""
BEGIN, END = "<!-- lenses: begin -->", "<!-- lenses: end -->"


def child(command: list[Any], **environment: str) -> Line:
    """The JSON line that another bench file prints last; its standard error is ours."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def peer(given: argparse.Namespace) -> Iterator[Line]:
    """The library's loop, for each time and rate."""
    import midstream as ms
    from midstream.corpus.source import open_corpus

    ids = given.work / f"ids-{given.name}.npy"
    if not ids.exists():
        model = ms.load(given.model)
        encoded = [model.tokenizer.encode(document.text).ids for document in open_corpus(given.corpus)]
        np.save(ids, np.concatenate(encoded).astype(np.int32))
    environment = {} if given.memory_returned else KEPT
    command = [python_of("tuned"), HERE / "lens_peer.py", "--model", given.model or weights(), "--ids", ids]
    command += ["--sample", given.sample, "--tokens-per-step", given.tokens_per_step]
    for seconds in given.seconds:
        for scale in given.lr_scale:
            name = f"peer-{scale:g}-{seconds:g}s" if seconds else f"peer-{scale:g}-{STEPS}"
            out = given.work / given.name / (f"{name}-returned" if given.memory_returned else name)
            length = ["--seconds", seconds] if seconds else ["--steps", STEPS]
            yield child([*command, *length, "--lr-scale", scale, "--out", out], **environment)


def fitted(way: str, part: str) -> Callable[[argparse.Namespace], Iterator[Line]]:
    """The part that runs lens_ours.py, for each number of tokens."""

    def run(given: argparse.Namespace) -> Iterator[Line]:
        command = [sys.executable, HERE / "lens_ours.py", way, "--corpus", given.corpus]
        command += ["--model", given.model] if given.model else []
        for tokens in given.tokens:
            out = given.work / given.name / f"{part}-{tokens}"
            yield child([*command, "--tokens", tokens, "--out", out])

    return run


def name_of(line: Line) -> str:
    """What a lens is called in tables."""
    return Path(line["file"]).parent.name


def lens_of(line: Line, model: Any) -> Any:
    """The lens that a result line speaks of, under a name of its own."""
    from safetensors.torch import load_file

    from midstream.lens.file.artifact import load
    from midstream.lens.lens import Lens, Transport

    if line["part"] == "ours":
        return replace(load(Path(line["file"]), model), name=name_of(line))
    maps = load_file(line["file"])
    moves = {layer: Transport(maps[f"weight.{layer}"], maps[f"bias.{layer}"]) for layer in range(model.anatomy.layers)}
    return Lens(name_of(line), "output", 1, moves, kind="tuned", site="resid_post")


def scored(given: argparse.Namespace, lines: list[Line], text: Path, where: list[str]) -> Iterator[Line]:
    """KL of lenses on a text: mean over layers with its interval, and by layer."""
    import midstream as ms

    model = ms.load(given.model)
    lenses = [lens_of(line, model) for line in lines]
    options: dict[str, Any] = {"positions": given.positions, "tokens": given.read, "where": where}
    table = ms.score(model, [*lenses, "logit"], text, **options)
    columns = {name: column[table.columns["measure"] == "kl"].tolist() for name, column in table.columns.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for row in rows:
        if row["layer"] == -1:
            same = [one for one in rows if (one["lens"], one["against"]) == (row["lens"], row["against"])]
            by_layer = {one["layer"]: [round(one[name], 4) for name in ("value", "low", "high")] for one in same}
            by_layer.pop(-1)
            kept = ("lens", "against", "value", "low", "high", "clusters", "tokens")
            yield {name: row[name] for name in kept if name in row} | {"text": text.name, "by_layer": by_layer}


def results(given: argparse.Namespace) -> list[Line]:
    """All lines so far."""
    return [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []


def made(given: argparse.Namespace, part: str) -> list[Line]:
    """The lines of a part about this model."""
    return [line for line in results(given) if (line["part"], line["model"]) == (part, given.name)]


def tune(given: argparse.Namespace) -> Iterator[Line]:
    """KL of every run of the peer on text that is not compared on."""
    runs = [line for line in made(given, "peer") if line["memory_kept"]]
    yield from (line for line in scored(given, runs, given.tune, given.tune_where) if not line["against"])


def compare(given: argparse.Namespace) -> Iterator[Line]:
    """On the same held-out positions: all of ours, and of the peer's the best rate for each time."""
    tuned = {line["lens"]: line["value"] for line in made(given, "tune")}
    best: dict[Any, Line] = {}
    for line in made(given, "peer"):
        kl = tuned.get(name_of(line), 0.0 if not tuned else float("inf"))
        if line["memory_kept"] and kl < best.get(line["budget"], {"kl": float("inf")})["kl"]:
            best[line["budget"]] = line | {"kl": kl}
    lines = [*made(given, "ours"), *made(given, "stored"), *best.values()]
    yield from scored(given, lines, given.held_out, [])


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "peer": peer,
    "ours": fitted("tuned", "ours"),
    "stored": fitted("stored", "stored"),
    "tune": tune,
    "compare": compare,
}


def run(part: str, given: argparse.Namespace) -> None:
    """One part; its lines replace those that it wrote before about the same."""
    on = machine()
    found = PARTS[part](given)
    # a run of minutes is kept as soon as it ends, a table only whole
    for fresh in ([line] for line in found) if part in MAKERS else [list(found)]:
        lines = [{"part": part, "model": given.name} | line | {"machine": on} for line in fresh]
        print(*map(json.dumps, lines), sep="\n", file=sys.stderr)
        kept = [old for old in results(given) if key(old) not in set(map(key, lines))]
        given.results.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *lines]))


def key(line: Line) -> tuple[str, ...]:
    """What a new line must share with an old one to replace it."""
    return line["part"], line["model"], line.get("file", "")


def toy(given: argparse.Namespace) -> None:
    """The parts on the toy: the peer makes the published number of steps, ours has less than a tenth of its tokens."""
    import toy as maker

    given = argparse.Namespace(**vars(given))
    given.name, given.model, given.sample = "toy", maker.make(given.corpus, given.work), maker.CONTEXT
    given.seconds, given.tokens_per_step = [None], given.toy_tokens_per_step
    # fewer than a tenth also where each time that a token goes through the model is counted
    given.tokens = [STEPS * given.tokens_per_step // 25]
    for part in ("peer", "ours", "tune", "compare"):
        run(part, given)


def page(given: argparse.Namespace) -> str:
    """The Markdown that goes between the markers."""
    text: list[str] = ["### Fitting a lens\n"]
    for model, title in (("default", "The default model"), ("toy", "The toy, the published number of steps")):
        given = argparse.Namespace(**vars(given) | {"name": model})
        runs = [line for part in MAKERS for line in made(given, part)]
        compared = made(given, "compare")
        if not runs:
            continue
        peers = [name_of(line) for line in runs if line["part"] == "peer"]
        against = [line["lens"] for line in compared if not line["against"] and line["lens"] in peers][-1:]
        kl = {line["lens"]: line for line in compared if not line["against"]}
        less = {line["lens"]: line for line in compared if [line["against"]] == against}
        head = ["lens", "tokens", "through the model", "seconds", "peak memory, MB", "KL", f"less {' '.join(against)}"]
        rows: list[list[str]] = []
        for line in runs:
            counts = [f"{line[name]:,.0f}" for name in ("tokens", "tokens_forward", "seconds", "peak_mb")]
            rows.append([name_of(line), *counts, *(_estimate(found.get(name_of(line))) for found in (kl, less))])
        on = runs[0]["machine"]
        text += [f"{title}:\n", table(head, rows), ""]
        text += [
            f"Measured {on['day']}, {on['cpu']}, {on['cores']} cores, torch {on['torch']}, load {on['load']:.1f}.\n"
        ]
    return "\n".join(text)


def _estimate(line: Line | None) -> str:
    """A mean with its interval; empty where the lens was not compared."""
    return f"{line['value']:.3f} ({line['low']:.3f} to {line['high']:.3f})" if line else ""


def write(given: argparse.Namespace) -> None:
    """Puts the tables into the page, at its end the first time."""
    old = given.page.read_text("utf-8")
    if BEGIN not in old:
        old += f"\n{BEGIN}\n{END}\n"
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    given.page.write_text(f"{before}{BEGIN}\n\n{page(given)}\n{END}{after}", encoding="utf-8")


def options() -> argparse.Namespace:
    """The arguments, checked as far as that needs no model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "toy", "table"])
    parser.add_argument("--corpus", type=Path, help="text to fit on, and to train the toy on")
    parser.add_argument("--tune", type=Path, help="text to choose the peer's rate by")
    parser.add_argument("--tune-where", nargs="*", default=[], help="its documents with FIELD=VALUE only")
    parser.add_argument("--held-out", type=Path, help="text to compare on")
    parser.add_argument("--work", type=Path, help="folder for maps and token ids; kept")
    parser.add_argument("--results", type=Path, default=HERE / "lenses.jsonl")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4_000], help="that ours and stored read")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1200], help="of the peer's training")
    parser.add_argument("--lr-scale", type=float, nargs="+", default=[1.0], help="factors of the peer's learning rate")
    parser.add_argument("--toy-tokens-per-step", type=int, default=2**14, help="of the peer on the toy")
    parser.add_argument("--memory-returned", action="store_true", help="run the peer with malloc as it comes")
    parser.add_argument("--positions", type=int, default=2000, help="compared")
    parser.add_argument("--read", type=int, default=256, help="first tokens of each document that they lie in")
    given = parser.parse_args()
    needs = {"peer": ["corpus"], "ours": ["corpus"], "stored": ["corpus"], "tune": ["tune"], "compare": ["held_out"]}
    needs |= {"toy": ["corpus", "tune", "held_out"], "table": []}
    for part in given.parts:
        for name in [*needs[part], *(["work"] if part != "table" else [])]:
            if getattr(given, name) is None:
                parser.error(f"{part} needs --{name.replace('_', '-')}.")
    return given


def main() -> None:
    """Runs the parts named, in that order."""
    given = options()
    given.name, given.model, given.sample, given.tokens_per_step = "default", None, 2048, 2048
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    for part in given.parts:
        if part in PARTS:
            run(part, given)
        else:
            {"toy": toy, "table": write}[part](given)


if __name__ == "__main__":
    main()
