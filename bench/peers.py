"""The same statistics from other tools: makes an environment for each, runs peer.py there, prints a JSON line a run.

The environments lie in bench/.envs (1.6 GB each), never in the project's own; they are kept until their requirements
change. The weights are the default model's, dequantised once into bench/.envs/model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEXT = HERE.parent / "LICENSE"
"""A text that never changes, of 2,000 tokens and more."""

ENVIRONMENT = {"plain": "lens", "transformer_lens": "lens", "tuned_lens": "tuned"}
"""peer -> environment, made from requirements-<environment>.txt."""

NEEDS_MB = {"plain": 2.2, "transformer_lens": 3.2, "tuned_lens": 31.0}
"""About what each peer takes, MB a token beyond the model: a size that does not fit is left out."""


def python_of(environment: str) -> Path:
    """The interpreter of a peer's environment, which is made first if it is missing or out of date."""
    folder, wanted = HERE / ".envs" / environment, HERE / f"requirements-{environment}.txt"
    made, python = folder / "made-from.txt", folder / "bin" / "python"
    if made.exists() and made.read_text() == wanted.read_text():
        return python
    print(f"making {folder} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet"]
    # torch first and alone: anything else may pull in a build with CUDA
    torch = next(line for line in wanted.read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([*install, torch], check=True, stdout=sys.stderr)
    subprocess.run([*install, "-r", wanted], check=True, stdout=sys.stderr)
    made.write_text(wanted.read_text())
    return python


def weights() -> Path:
    """The folder of the dequantised default model, in the form that transformers reads."""
    folder = HERE / ".envs" / "model"
    if not (folder / "config.json").exists():
        from midstream.model.bundled import bundled
        from midstream.model.gguf_model import convert_gguf

        folder.mkdir(parents=True, exist_ok=True)
        convert_gguf(bundled(), folder)
    return folder


def free_mb() -> float:
    """Memory that new processes can have, MB; infinite where the system does not say."""
    try:
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / 1024
    except OSError:
        return float("inf")


def run(peers: list[str], sizes: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """One result a peer and size; a size that does not fit in memory, or a peer that fails, says so instead."""
    model = weights()
    for peer in peers:
        python = python_of(ENVIRONMENT[peer])
        for tokens in sizes:
            base = {"part": "peers", "name": peer, "tokens": tokens}
            if NEEDS_MB[peer] * tokens + 2000 > free_mb():
                yield base | {"skipped": f"needs about {NEEDS_MB[peer] * tokens / 1000:.0f} GB"}
                continue
            command = [python, HERE / "peer.py", peer, "--model", model, "--text", TEXT, "--tokens", str(tokens)]
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
            done = subprocess.run(
                [*command, "--repeats", str(repeats)], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.stderr.write(done.stderr)
                yield base | {"skipped": f"failed: {done.stderr.strip().splitlines()[-1]}"}
            else:
                yield json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints one JSON line a peer and size."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peers", nargs="+", choices=ENVIRONMENT, default=list(ENVIRONMENT))
    options.add_argument("--tokens", nargs="+", type=int, default=[256])
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    for line in run(given.peers, given.tokens, given.repeats):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
