"""``make bench``: every number of docs/performance.md, measured here and now, written between that page's markers.

Parts: ``readout`` and ``errors`` (bench/readout.py: midstream's own read-out), ``peers`` (bench/peers.py),
``generation`` (bench/generation.py), ``read`` (whole commands), ``start`` (a text of ten words) and ``workbench``
(bench/workbench.py). Naming parts measures only those; the others keep their last lines, which lie in
bench/results.jsonl. Run it on a quiet machine: each line holds the load that it began with.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results.jsonl"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
TEN_WORDS = "The Eiffel Tower is located in the city of"
TEXT = ROOT / "LICENSE"
Line = dict[str, Any]


def script(name: str, *arguments: str) -> Iterator[Line]:
    """The JSON lines that another bench file prints; its standard error is ours."""
    done = subprocess.run(
        [sys.executable, HERE / name, *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def command(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak resident MB of one ``midstream`` process, from its start to its end."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "midstream", *arguments], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"midstream {' '.join(arguments)} ended with {process.returncode}.")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def start() -> Iterator[Line]:
    """Process start to printed grid; the first run, which may fill caches, is not counted."""
    command("read", TEN_WORDS)
    runs = [command("read", TEN_WORDS) for _ in range(5)]
    imported = [_seconds([sys.executable, "-c", "import torch"]) for _ in range(3)]
    yield {
        "name": "ten words",
        "seconds": statistics.median(run[0] for run in runs),
        "peak_mb": max(run[1] for run in runs),
        "torch_seconds": statistics.median(imported),
    }


def read() -> Iterator[Line]:
    """``midstream read --out`` for three lengths, all layers against two; exact and fast."""
    from midstream.model.load import load

    model = load()
    last = model.anatomy.layers
    with tempfile.TemporaryDirectory() as folder:
        for tokens in (256, 1024, 4096):
            text = Path(folder) / f"{tokens}.txt"
            text.write_bytes(_text(model, tokens))
            for layers, precision in ((f"0-{last}", "exact"), (f"0-{last}", "fast"), (f"0,{last}", "exact")):
                out = ["--out", str(Path(folder) / "x.parquet")]
                options = ["--file", str(text), "--layers", layers, "--precision", precision, *out]
                runs = [command("read", *options) for _ in range(2)]
                count = 2 if "," in layers else last + 1
                best = {"seconds": min(run[0] for run in runs), "peak_mb": min(run[1] for run in runs)}
                yield {"name": f"{count} layers, {precision}", "tokens": tokens} | best


def _text(model: Any, tokens: int) -> bytes:
    """A text of that many tokens, give or take the one where it is cut."""
    text = TEXT.read_text("utf-8")
    ids = model.tokenizer.encode(text).ids
    while len(ids) < tokens:
        text += text
        ids = model.tokenizer.encode(text).ids
    return b"".join(model.tokenizer.token_bytes(i) for i in ids[:tokens])


def _seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(arguments, check=True)
    return time.perf_counter() - begun


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "readout": lambda: script("readout.py"),
    "peers": lambda: script("peers.py"),
    "errors": lambda: script("readout.py", "--errors"),
    "generation": lambda: script("generation.py"),
    "read": read,
    "start": start,
    "workbench": lambda: script("workbench.py"),
}


def machine() -> dict[str, Any]:
    """What the numbers hold for: processor, cores, versions, day, load of the last minute."""
    from importlib.metadata import version

    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    return {
        "cpu": names[0].split(": ", 1)[1] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": os.getloadavg()[0],
    }


def page(lines: list[Line]) -> str:
    """The Markdown that goes between the markers."""
    parts = {part: [line for line in lines if line["part"] == part] for part in PARTS}
    read_out = [
        [str(line.get("tokens", "")), line["name"].replace("_", "-"), *_read_out_cells(line)]
        for line in sorted(parts["readout"] + parts["peers"], key=lambda line: line.get("tokens", 0))
    ]
    off = [
        [str(line["tokens"]), line["precision"], name, f"{error['mean']:.1e}", f"{error['max']:.1e}"]
        for line in parts["errors"]
        for name, error in line["errors"].items()
    ]
    sections = [
        ("Read-out", ["tokens", "what", "times the products", "seconds", "memory above the model, MB"], read_out),
        ("Errors against float64", ["tokens", "precision", "statistic", "mean", "largest"], off),
        ("Generation and anchoring", *generation_rows(parts["generation"])),
        (
            "Whole command",
            ["tokens", "layers, precision", "seconds", "peak memory, MB"],
            [[str(line["tokens"]), line["name"], *_cells(line, "seconds", "peak_mb")] for line in parts["read"]],
        ),
        (
            "Start",
            ["text", "seconds to the printed grid", "of these `import torch`", "peak memory, MB"],
            [[line["name"], *_cells(line, "seconds", "torch_seconds", "peak_mb")] for line in parts["start"]],
        ),
        (
            "Workbench",
            ["what", "first row, s", "all rows, s", "frames a second", "longest frame, ms", "tab, MB"],
            [
                [line["name"], *_cells(line, "first", "all", "frames", "longest_ms", "tab_mb")]
                for line in parts["workbench"]
            ],
        ),
    ]
    text = [f"### {title}\n\n{table(head, rows)}\n" for title, head, rows in sections if rows]
    return "\n".join([*text, *_circumstances(lines)])


def generation_rows(lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of what bench/generation.py prints."""
    head = ["what", "against", "times as fast (rounds)", "wanted", "tokens a second", "of the other"]
    rows = [
        [
            line["name"],
            line["against"],
            f"{_number(line['ratio'])} ({_number(line['least'])} to {_number(line['most'])})",
            _number(line["wanted"]),
            *_cells(line, "per_second", "per_second_against"),
        ]
        for line in lines
    ]
    return head, rows


def _read_out_cells(line: Line) -> list[str]:
    return [line["skipped"], "", ""] if "skipped" in line else _cells(line, "multiple", "seconds", "memory_mb")


def _cells(line: Line, *names: str) -> list[str]:
    """Numbers to three digits; what was not measured is empty."""
    return [_number(line[name]) if line.get(name) is not None else "" for name in names]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _circumstances(lines: list[Line]) -> list[str]:
    """One sentence a part: where and when it was measured."""
    seen: dict[str, str] = {}
    for line in lines:
        on = line["machine"]
        seen[line["part"]] = (
            f"{on['day']}, {on['cpu']}, {on['cores']} cores, Python {on['python']}, torch {on['torch']}, "
            f"load {on['load']:.1f} at the start"
        )
    return [f"Measured ({part}): {sentence}.  " for part, sentence in seen.items()]


def main() -> None:
    """Measures the named parts, keeps their lines, prints the tables and rewrites the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    wanted = options.parse_args().parts or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        options.error(f"unknown part {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}.")
    kept = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for part in wanted:
        on = machine()
        measured: list[Line] = []
        for line in PARTS[part]():
            measured.append({**line, "part": part, "machine": on})
            print(json.dumps(measured[-1]), file=sys.stderr)
        kept = [line for line in kept if line["part"] != part] + measured
        RESULTS.write_text("".join(json.dumps(line) + "\n" for line in kept))
    text = page(kept)
    print(text)
    old = PAGE.read_text("utf-8") if PAGE.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
