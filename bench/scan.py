"""A scan against one forward pass plus the bare float32 products of its rows, its bytes a row, and its memory.

``python bench/scan.py --corpus F --tokens 20000 --lens logit tuned.safetensors`` scans that text, exact and fast,
and times the floor in the same process: every window once through the blocks, then one product ``[256, d] x [d, V]``
for each (lens, layer) and 256 positions, output allocated as plain code does. The products are timed on ``--share`` of
the positions and counted for all. ``--flat F`` scans the first 50 and 600 kB of F in a process each, and prints
their peak memory; ``--model`` may name a tiny model there. A JSON line a result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from midstream.corpus.source import open_corpus
from midstream.corpus.window import LONGEST, windows
from midstream.lens.read.request import request
from midstream.model.load import load
from midstream.run.scan import ScanOptions, scan
from midstream.store.store import open_store
from midstream.stream.capture import capture

CHUNK = 256


def texts(model, corpus, tokens):
    """The token ids that a scan of so many tokens reads, document by document."""
    left = tokens
    for document in open_corpus(corpus):
        ids = model.tokenizer.encode(document.text).ids[:left]
        left -= len(ids)
        yield ids
        if not left:
            return


@torch.inference_mode()
def floor(model, documents, groups, share):
    """Seconds of the forward passes, and of the products, which are timed on a share of the chunks."""
    passes = 0.0
    for ids in documents:
        for window in windows(len(ids), min(model.context, LONGEST)):
            begun = time.perf_counter()
            capture(model, torch.tensor([ids[window.start : window.stop]]), layers=[model.anatomy.layers])
            passes += time.perf_counter() - begun
    weight = model.anatomy.unembedding.weight.float()
    x = torch.randn(CHUNK, weight.shape[1])
    chunks = sum(map(len, documents)) / CHUNK * groups
    timed = max(1, round(chunks * share))
    torch.mm(x, weight.T)
    begun = time.perf_counter()
    for _ in range(timed):
        torch.mm(x, weight.T)
    return passes, (time.perf_counter() - begun) * chunks / timed


def size(store):
    """Bytes a row of the readings."""
    files = [path.stat().st_size for path in (store / "readings").iterdir()]
    return sum(files) / sum(entry.rows for entry in open_store(store).entries)


def ratios(given):
    torch.set_num_threads(given.threads or torch.get_num_threads())
    model = load(given.model)
    wanted = {name: request(model, {"lens": given.lens, "top_k": 5, "precision": name}) for name in given.precision}
    documents = list(texts(model, given.corpus, given.tokens))
    groups = sum(len(wanted[given.precision[0]].places(lens)) for lens in wanted[given.precision[0]].lenses)
    for name, asked in wanted.items():
        passes, products = floor(model, documents, groups, given.share)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "store"
            begun = time.perf_counter()
            done = scan(model, open_corpus(given.corpus), out, asked, ScanOptions(tokens=given.tokens))
            seconds = time.perf_counter() - begun
            line = {
                "precision": name,
                "threads": torch.get_num_threads(),
                "tokens": done.tokens,
                "rows": done.rows,
                "seconds": round(seconds, 1),
                "tokens_a_second": round(done.tokens / seconds, 1),
                "forward": round(passes, 1),
                "products": round(products, 1),
                "ratio": round(seconds / (passes + products), 3),
                "bytes_a_row": round(size(out), 1),
            }
        print(json.dumps(line), flush=True)


PEAK = """
import sys
from midstream.__main__ import main
try:
    main()
finally:
    lines = open('/proc/self/status').read().splitlines()
    print([line for line in lines if line.startswith('VmHWM')][0].split()[1], file=sys.stderr)
"""


def flat(given):
    text = Path(given.flat).read_bytes()
    for kilobytes in (50, 600):
        folder = Path(tempfile.mkdtemp())
        (folder / "text.txt").write_bytes(text[: 1000 * kilobytes].decode(errors="ignore").encode())
        words = ["scan", "--corpus", folder / "text.txt", "--out", folder / "store", "--every", str(given.every)]
        words += ["--lens", "logit", *(["--model", given.model] if given.model else [])]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        shutil.rmtree(folder)
        line = {
            "kilobytes": kilobytes,
            "peak_mb": round(int(done.stderr.split()[-1]) / 1024),
            "said": done.stdout.strip(),
        }
        print(json.dumps(line), flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--corpus")
    options.add_argument("--tokens", type=int, default=20_000)
    options.add_argument("--lens", nargs="+", default=["logit"])
    options.add_argument("--precision", nargs="+", default=["exact", "fast"])
    options.add_argument("--share", type=float, default=0.1, help="of the products that are timed")
    options.add_argument("--threads", type=int, help="of PyTorch; all by default")
    options.add_argument("--flat", help="a text of 600 kB or more: measure memory")
    options.add_argument("--every", type=int, default=1)
    options.add_argument("--model")
    given = options.parse_args()
    flat(given) if given.flat else ratios(given)


if __name__ == "__main__":
    main()
