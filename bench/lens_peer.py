"""The tuned-lens library trains its own lens by its own loop, in its own environment; imports nothing of midstream.

Run it with the interpreter of bench/.envs/tuned, which bench/peers.py makes. Module, loss (KL, under its bfloat16
autocast), clip at 1.0, SGD with Nesterov momentum and weight decay, and the linear decay of the rate are the library's
own code, called. Only what feeds the loop is ours: its data loader needs a torchdata that is no more. ``--ids`` is a
.npy of token ids, documents joined, which is cut into samples. A run ends with its steps or its time, whichever comes
first; without ``--steps`` two steps, thrown away and not counted, say how many fit the time, so that the rate reaches 0
at its end: a lens for a shorter time is a run of its own. Time is that of the loop, loading and saving left out.
Prints one JSON line.

MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 in the environment keeps freed memory in the
process: handing it back and fetching it again takes half the processor time of a step; the peak is then higher.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}

import numpy as np
import torch
import torchdata
from peer import forget_peak, memory
from safetensors.torch import save_file

for missing in ("dataloader2", "datapipes"):
    # named by the library's imports and annotations, used only by what setup() below replaces
    stand_in = ModuleType(f"torchdata.{missing}")
    stand_in.DataLoader2 = object  # type: ignore[attr-defined]
    sys.modules[stand_in.__name__] = stand_in
    setattr(torchdata, missing, stand_in)

from transformers import AutoModelForCausalLM  # noqa: E402  (the stand-ins come first)
from tuned_lens.scripts.ingredients import Distributed, Optimizer  # noqa: E402
from tuned_lens.scripts.train_loop import State, Train  # noqa: E402


class Feed:
    """Samples for the loop, in a new seeded order each epoch. Between two steps it keeps the time, and ends.

    Attributes:
        seconds: spent in finished steps.
        steps: finished.
    """

    def __init__(self, samples: torch.Tensor, given: argparse.Namespace) -> None:
        self.samples, self.given = samples, given
        self.seconds, self.batches = 0.0, 0
        self.accumulated = given.tokens_per_step // given.sample
        self.lens: Any = None
        self.begun: float | None = None

    @property
    def steps(self) -> int:
        return self.batches // self.accumulated

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.given.seed)
        forget_peak()
        while True:
            for at in torch.randperm(len(self.samples), generator=generator).tolist():
                self.finish_batch()
                if self.given.seconds and self.seconds >= self.given.seconds:
                    return
                self.begun = time.perf_counter()
                yield {"input_ids": self.samples[at][None]}

    def finish_batch(self) -> None:
        """Called when the loop asks for the next sample, and once when it has ended."""
        if self.begun is None:
            return
        self.seconds += time.perf_counter() - self.begun
        self.batches, self.begun = self.batches + 1, None

    def finish(self) -> None:
        """In place of the library's own save: the last batch counts; A = I + weight and b of each layer (the library's
        index is midstream's) are written, and what they cost is printed."""
        self.finish_batch()
        if self.given.out is None:
            return
        maps: dict[str, torch.Tensor] = {}
        for layer, translator in enumerate(self.lens):
            maps[f"weight.{layer}"] = torch.eye(len(translator.bias)) + translator.weight.detach().float()
            maps[f"bias.{layer}"] = translator.bias.detach().float().clone()
        self.given.out.mkdir(parents=True, exist_ok=True)
        path = self.given.out / "peer.safetensors"
        save_file(maps, path)
        line = {
            "file": str(path),
            "lr_scale": self.given.lr_scale,
            "budget": self.given.seconds,
            "steps": self.steps,
            "tokens": min(self.samples.numel(), self.batches * self.given.sample),
            "tokens_forward": self.batches * self.given.sample,
            "tokens_per_step": self.given.tokens_per_step,
            "seconds": round(self.seconds, 2),
            "planned_steps": self.given.steps,
            "peak_mb": round(memory("VmHWM")),
            "memory_kept": "MALLOC_TRIM_THRESHOLD_" in os.environ,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        print(json.dumps(line), file=sys.__stdout__, flush=True)


class Fed(Train):
    """The library's training with another source of samples."""

    def feed(self, feed: Feed, model: Any) -> Fed:
        """What ``setup`` hands to the loop."""
        self.source, self.frozen = feed, model
        return self

    def setup(self) -> tuple[State, Any, int]:
        """As the library's, without its data loader, snapshots and logging."""
        lens = self.get_lens(self.frozen)
        self.source.lens = lens
        lens.save = lambda _: self.source.finish()
        optimizer = self.opt.create_optim([p for p in lens.parameters() if p.requires_grad])
        state = State(
            dataloader=self.source,  # type: ignore[arg-type]
            lens=self.dist.distribute_lens(lens),
            opt=optimizer,
            scheduler=self.opt.create_scheduler(optimizer, self.num_steps),
            wandb_id=None,
            nats_to_bpb=1.0,
        )
        return state, self.frozen, self.calculate_gradient_accumulation_steps(self.source.given.sample)


def train(model: Any, samples: torch.Tensor, given: argparse.Namespace) -> Feed:
    """One run of the library's loop."""
    feed = Feed(samples, given)
    trained = Fed(
        model=None,  # type: ignore[arg-type]
        data=None,  # type: ignore[arg-type]
        opt=Optimizer(lr_scale=given.lr_scale),
        dist=Distributed(),
        output=Path(),  # never written: lens.save is ours
        seed=given.seed,
        num_steps=given.steps,
        tokens_per_step=given.tokens_per_step,
    )
    trained.feed(feed, model).execute()
    return feed


def options() -> argparse.Namespace:
    """The arguments, checked as far as that needs no model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json and model.safetensors")
    parser.add_argument("--ids", type=Path, required=True, help=".npy of token ids")
    parser.add_argument("--out", type=Path, required=True, help="folder for the maps")
    parser.add_argument("--lr-scale", type=float, default=1.0, help="factor of the library's own learning rate")
    parser.add_argument("--seconds", type=float, help="training time")
    parser.add_argument("--steps", type=int, help="steps of the linear decay")
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--sample", type=int, default=2048, help="tokens in one sample")
    parser.add_argument("--seed", type=int, default=42)
    given = parser.parse_args()
    if not (given.seconds or given.steps):
        parser.error("expected --seconds, --steps or both.")
    return given


def main() -> None:
    """Prints the line."""
    given = options()
    ids = torch.from_numpy(np.load(given.ids).astype(np.int64)).flatten()
    samples = ids[: len(ids) // given.sample * given.sample].view(-1, given.sample)
    if not len(samples):
        raise SystemExit(f"{given.ids} holds {len(ids)} tokens, fewer than a sample of {given.sample}.")
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    with contextlib.redirect_stdout(sys.stderr):
        if not given.steps:
            probe = argparse.Namespace(**vars(given) | {"out": None, "seconds": None, "steps": 1})
            given.steps = math.ceil(given.seconds / min(train(model, samples, probe).seconds for _ in range(2)))
        train(model, samples, given)


if __name__ == "__main__":
    main()
