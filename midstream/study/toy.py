"""Small byte-level language models, trained from seeds: what differs between two of one seed is what is studied.

All models of one seed start from the same weights and see the same batches in the same order, whatever their loss is.
No draw uses a global generator. On one machine, with one number of threads, a training gives the same numbers again.

Letters for shapes: b windows, t bytes read of each, d width, V = 256 bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midstream.errors import RequestError
from midstream.model.plain import PlainConfig, PlainLM
from midstream.record import Array
from midstream.study.study import Ground

BYTES = 256
"""Rows of the embedding, one a byte."""

TOGETHER = 64
"""Windows in one pass of an evaluation."""

AGAIN = 4
"""How often a byte may be read in training, on average: up to so often it is worth about as much as a new one
(Muennighoff et al. 2023)."""

Loss = Callable[[PlainLM, Tensor], Tensor]
"""Of a model and a batch ``[b, t + 1]`` int64: one number to be made small."""

Scoring = Callable[[PlainLM, Tensor], Tensor]
"""Of a model and ids ``[b, t]`` int64: logits ``[b, t, V]`` of what comes next at each position."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        width: d, a multiple of ``heads``.
        window: bytes that it reads at once.
    """

    width: int
    blocks: int
    heads: int
    window: int


@dataclass(frozen=True)
class Training:
    """How a model is trained: AdamW, betas 0.9 and 0.95, gradients of norm 1 at most.

    Attributes:
        steps: batches.
        batch: windows in each.
        rate: the highest learning rate; reached linearly in ``warmup`` steps, then falling as a cosine to ``last``
            times as much.
        decay: AdamW's weight decay, of matrices and embeddings; biases and norms have none.
        last: 0 to 1; at 1 the rate stays, and what a step does does not depend on how many are to come.
    """

    steps: int
    batch: int
    rate: float
    warmup: int
    decay: float = 0.1
    last: float = 0.0


def fresh(shape: Shape, seed: int, *, scaled: bool = True) -> PlainLM:
    """An untrained GPT-2 of bytes, embedding and unembedding one: float32, on the CPU, equal for equal seeds.

    Maps are drawn normally with variance 1 / inputs, those that write into the stream divided by the number of writers
    (Radford et al. 2019) if ``scaled``; embeddings with a standard deviation of 0.1; biases are 0, norms 1.
    """
    d, c = shape.width, shape.width // shape.heads
    sizes = (BYTES, d, 4 * d, shape.blocks, shape.heads, shape.heads, c, shape.window)
    with torch.device("meta"):  # its own draws would come from the global generator
        module = PlainLM(PlainConfig("gpt2", *sizes, norm_eps=1e-5))
    module.to_empty(device="cpu")
    module.tie()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() == 1:
                weight.fill_(float("ln_" in name and name.endswith("weight")))
                continue
            scale = 0.1 if ".h." not in name else 1 / math.sqrt(weight.shape[0])  # of Conv1D, [inputs, outputs]
            scale /= math.sqrt(2 * shape.blocks) if scaled and "c_proj" in name else 1.0
            weight.copy_(scale * torch.randn(weight.shape, generator=draw))
    return module


def room(documents: Sequence[bytes], window: int) -> int:
    """Places at which a window and the byte after it can be cut out of some documents."""
    return sum(max(len(document) - window, 0) for document in documents)


def bytes_of(ground: Ground, name: str) -> list[bytes]:
    """The bytes of a set's texts, as far as the study reads them."""
    of = ground.model.tokenizer.token_bytes
    key = f"toy bytes {name}"
    if key not in ground.keep:
        ground.keep[key] = [b"".join(map(of, text.ids)) for text in ground.texts[name]]
    return ground.keep[key]


def check_room(documents: Sequence[bytes], window: int, training: Training) -> None:
    """Raise RequestError where documents are too short for a training that reads each byte ``AGAIN`` times at most."""
    have, read = room(documents, window), training.steps * training.batch * window
    if have * AGAIN < read:
        raise RequestError(
            f"documents to fit on have {have:,} places for a window of {window} bytes, and training reads {read:,} "
            f"bytes: expected {-(-read // AGAIN):,} or more. Give more text, or a smaller size."
        )


def batches(documents: Sequence[bytes], window: int, training: Training, seed: int) -> Iterator[Tensor]:
    """``training.steps`` batches ``[b, window + 1]`` int64, every place in the documents as likely as any other.

    Raises:
        RequestError: where every document is too short.
    """
    kept = [document for document in documents if len(document) > window]
    if not kept:
        longest = max(map(len, documents), default=0)
        raise RequestError(
            f"the longest of {len(documents)} documents has {longest} bytes: expected more than {window}, the window. "
            "Give longer documents."
        )
    data = np.frombuffer(b"".join(kept), np.uint8)
    lengths = np.array([len(document) for document in kept])
    begins, places = np.cumsum(lengths) - lengths, np.cumsum(lengths - window)
    draw = np.random.default_rng(seed)
    for _ in range(training.steps):
        place = draw.integers(0, places[-1], training.batch)
        which = np.searchsorted(places, place, side="right")
        start = begins[which] + place - (places - lengths + window)[which]
        yield torch.from_numpy(data[start[:, None] + np.arange(window + 1)].astype(np.int64))


def next_byte(scoring: Scoring) -> Loss:
    """The mean cross-entropy of the byte that comes next, nats, over all positions of a batch ``[b, t + 1]``."""

    def loss(module: PlainLM, batch: Tensor) -> Tensor:
        return F.cross_entropy(scoring(module, batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return loss


def plain_scores(module: PlainLM, ids: Tensor) -> Tensor:
    """The model as it is: ids ``[b, t]`` to logits ``[b, t, V]``."""
    return module(ids).logits


def train(module: PlainLM, data: Iterable[Tensor], loss: Loss, training: Training) -> Array:
    """Trains a model in place, one step a batch; parameters that want no gradient stay as they are.

    Args:
        data: batches ``[b, t + 1]`` int64, as ``batches`` gives them.

    Returns:
        The loss of each step, before it: ``[steps]`` float64.

    Raises:
        RequestError: where the loss is not finite.
    """
    wanted = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in wanted if weight.dim() > 1], "weight_decay": training.decay},
        {"params": [weight for weight in wanted if weight.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=training.rate, betas=(0.9, 0.95))
    losses: list[float] = []
    with torch.inference_mode(False), torch.enable_grad():
        for step, batch in enumerate(data):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, training)
            value = loss(module, batch)
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                raise RequestError(
                    f"the loss is {losses[-1]} at step {step}: lower the learning rate, {training.rate:g}."
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(wanted, 1.0)
            optimizer.step()
    return np.array(losses)


def rate(step: int, training: Training) -> float:
    """The learning rate of a step, the first being 0: a linear rise, then a cosine."""
    if step < training.warmup:
        return training.rate * (step + 1) / training.warmup
    done = (step - training.warmup) / max(training.steps - training.warmup, 1)
    left = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return training.rate * (training.last + (1 - training.last) * left)


def evaluate(module: PlainLM, documents: Sequence[bytes], scoring: Scoring, window: int) -> tuple[Array, Array]:
    """How well a model predicts documents: ``-log p`` of each byte after the first, summed over each document.

    Windows overlap by half, and a byte counts in the first that holds it: it is predicted from ``window / 2`` bytes
    before it or more, where there are so many.

    Returns:
        Nats, ``[n]`` float64, and the number of bytes predicted, ``[n]`` int64; n documents.
    """
    nats = np.zeros(len(documents))
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    for number, document in enumerate(documents):
        for start, first, length in windows(len(document), window):
            by_length.setdefault(length, []).append((number, start, first))
    with torch.inference_mode():
        for length, members in sorted(by_length.items()):
            for begin in range(0, len(members), TOGETHER):
                some = members[begin : begin + TOGETHER]
                parts = b"".join(documents[number][start : start + length + 1] for number, start, _ in some)
                ids = torch.from_numpy(np.frombuffer(parts, np.uint8).astype(np.int64)).reshape(len(some), -1)
                logprob = scoring(module, ids[:, :-1]).double().log_softmax(-1)
                found = -logprob.gather(-1, ids[:, 1:, None])[..., 0]
                for (number, _, first), row in zip(some, found, strict=True):
                    nats[number] += float(row[first:].sum())
    return nats, np.array([max(len(document) - 1, 0) for document in documents], np.int64)


def windows(length: int, window: int) -> list[tuple[int, int, int]]:
    """How a document of ``length`` bytes is read: (start, predictions that do not count, positions), in bytes.

    A window of p positions from s reads bytes s to s + p - 1 and predicts s + 1 to s + p.
    """
    predicted, p = length - 1, min(window, length - 1)
    found: list[tuple[int, int, int]] = []
    done = start = 0
    while done < predicted:
        start = min(start, predicted - p)
        found.append((start, done - start, p))
        done, start = start + p, start + max(window // 2, 1)
    return found


def step_seconds(shape: Shape, training: Training, loss: Loss) -> float:
    """Of one step of training, after one that is not counted; the fastest of three."""
    module, found = fresh(shape, 0), [math.inf]
    draw = torch.Generator().manual_seed(0)
    batch = torch.randint(0, BYTES, (training.batch, shape.window + 1), generator=draw)
    for step in range(4):
        start = time.perf_counter()
        train(module, [batch], loss, replace(training, steps=1))
        found += [time.perf_counter() - start] if step else []
    return min(found)
