"""What is measured: where texts are read, and at each place how near the predicted rows come to the true ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.readout.read import Rows, read, top1
from midstream.readout.reader import input_reader
from midstream.record import Array
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.recovery import token as known
from midstream.study.recovery.maps import ENOUGH, Reading, noisy, per_text, predicted, scale_of, spread
from midstream.study.recovery.plan import (
    FIRST,
    FREQUENT,
    HELD_SHARE,
    LAGS,
    NOISY,
    OWN,
    REFITTED,
    SIZES,
    TABLE,
    Cell,
    again,
    batches,
    cells,
    positions,
    scored,
    steps,
)
from midstream.study.refit import RIDGE
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit

FEWEST = 4
"""Blocks below which a model has no middle."""


class Seen(NamedTuple):
    """Where some texts are read, n positions in all.

    Attributes:
        document, position: ``[n]`` of the corpus and the text.
        tokens: lag -> ``[n]`` int64, the tokens to be found.
        guesses: lag -> ``[n]`` int64, what the table makes of it.
        stream: layer -> ``[n, d]`` float32.
    """

    document: Array
    position: Array
    tokens: dict[int, Tensor]
    guesses: dict[int, Tensor]
    stream: dict[int, Tensor]


def check(ground: Ground) -> None:
    """Raise RequestError for a model or texts that the study cannot be asked of."""
    model, fit = ground.model, ground.texts["fit"]
    if model.anatomy.layers < FEWEST:
        raise RequestError(f"{model.name} has {model.anatomy.layers} blocks: the study needs {FEWEST} or more.")
    if (works := len({text.work for text in fit})) < RIDGE:
        raise RequestError(f"there are {works} works to fit maps on: expected {RIDGE} or more; give a larger corpus.")
    if (tokens := sum(min(len(text.ids), per_text(ground)) for text in fit)) < ENOUGH * model.anatomy.width:
        raise RequestError(
            f"the texts to fit maps on have {tokens:,} tokens in windows of {model.context}: expected "
            f"{ENOUGH * model.anatomy.width:,} or more, {ENOUGH} for each dimension of {model.name}. Give more text."
        )
    if not any(min(len(text.ids), model.context) > 2 * FIRST for text in ground.texts["confirm"]):
        raise RequestError(
            f"no text to confirm on has more than {2 * FIRST} tokens in {model.name}'s windows: expected longer ones."
        )


def seen(ground: Ground, texts: Sequence[Text], layers: Iterable[int]) -> Seen:
    """The places where some texts are read, with the stream there; which they are does not depend on the layers."""
    parts, some = list[Seen](), steps(ground.model.anatomy.layers)
    for text in texts:
        ids = torch.tensor(text.ids[: ground.model.context])
        stream = capture(ground.model, ids[None].to(ground.model.device), layers=sorted({*some, *layers}))
        sunk = torch.stack([sinks(stream[layer]) for layer in some]).any(0)[0].cpu().numpy()
        at = torch.from_numpy(positions(ground, sunk))
        parts.append(
            Seen(
                np.full(len(at), text.number, np.int32),
                at.numpy().astype(np.int32),
                {lag: ids[at - lag] for lag in LAGS},
                {lag: known.guess(ground, ids, at, lag) for lag in LAGS},
                {layer: h[0, at.to(h.device)].float() for layer, h in stream.items()},
            )
        )
    return Seen(
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.position for part in parts]),
        {lag: torch.cat([part.tokens[lag] for part in parts]) for lag in LAGS},
        {lag: torch.cat([part.guesses[lag] for part in parts]) for lag in LAGS},
        {layer: torch.cat([part.stream[layer] for part in parts]) for layer in parts[0].stream},
    )


def places(ground: Ground, texts: Sequence[Text]) -> Columns:
    """What is known of every token without the stream: its kind, frequency, how alone its row stands and how long."""
    rows: list[tuple[int, int, int, int]] = []
    for text in texts:
        ids = text.ids[: ground.model.context]
        rows += [(text.number, i, ids[i], ids[i - 1]) for i in range(FIRST, len(ids))]
    document, position, own, before = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    tokens = torch.from_numpy(own)
    return {
        "document": document.astype(np.int32),
        "position": position.astype(np.int32),
        "token": own.astype(np.int32),
        "kind": known.kinds(ground.model.tokenizer, before.tolist(), own.tolist()),
        "frequency": known.frequencies(ground)[own],
        "unseen": known.unseen(ground, HELD_SHARE)[tokens].numpy().astype(np.int16),
        "nearest": known.alone(ground, tokens),
        "norm": ground.model.anatomy.input_rows(tokens.to(ground.model.device)).norm(dim=1).double().cpu().numpy(),
    }


def recovered(ground: Ground, texts: Sequence[Text], wanted: Sequence[Cell], guesses: bool) -> Columns:
    """How near each cell comes, a row a place and cell; the tables' guesses too."""
    at = seen(ground, texts, {cell.layer for cell in wanted})
    reader = ground.keep.setdefault("reader", input_reader(ground.model.anatomy))
    rows = {lag: ground.model.anatomy.input_rows(at.tokens[lag].to(ground.model.device)) for lag in LAGS}
    mean = spread(ground)[0].float().to(ground.model.device)
    found: list[Mapping[str, Array]] = []
    of_own: dict[int, float] = {}
    gains, none = scored(ground), np.full(len(at.document), np.nan, np.float32)
    for cell in wanted:
        true = rows[cell.lag]
        if cell.reader == NOISY:
            draw = cell.layer + 4096 * texts[0].number
            row = noisy(ground, true, of_own.get(cell.layer, np.nan), draw)
            reading = Reading.shrunk(row, mean, scale_of(ground.lenses["input:0"], cell.layer))
        else:
            reading = predicted(ground, cell, at.stream[cell.layer])
        best, gain = (
            _read(ground, reading, at.tokens[cell.lag]) if cell in gains else (top1(reader, reading.scored), none)
        )
        columns: dict[str, Array] = {
            "right": np.where(best < 0, np.nan, best == at.tokens[cell.lag]).astype(np.float32),
            "error": _square(true - reading.row),
            "spread": _square(true - mean),
            "gain": gain,
        }
        if cell == Cell(OWN, 0, cell.layer) and len(true):
            of_own[cell.layer] = 1 - float(columns["error"].sum() / columns["spread"].sum())
        found.append(_named(cell, at, columns))
    if guesses:
        found += [_guessed(ground, at, name, lag) for name in (TABLE, FREQUENT) for lag in LAGS]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def first_tokens(ground: Ground, texts: Sequence[Text]) -> Columns:
    """Whether own maps find the first token of each text, an attention sink: one row a text and layer."""
    ids = torch.tensor([text.ids[0] for text in texts])
    some = steps(ground.model.anatomy.layers)
    stream = capture(ground.model, ids[:, None].to(ground.model.device), layers=some)
    reader = input_reader(ground.model.anatomy)
    best = [top1(reader, predicted(ground, Cell(OWN, 0, layer), stream[layer][:, 0].float()).scored) for layer in some]
    return {
        "document": np.tile(np.array([text.number for text in texts], np.int32), len(some)),
        "layer": np.repeat(np.array(some, np.int16), len(texts)),
        "right": np.concatenate([found == ids for found in best]).astype(np.float32),
    }


def _guessed(ground: Ground, at: Seen, name: str, lag: int) -> Mapping[str, Array]:
    guess = (
        at.guesses[lag] if name == TABLE else torch.full_like(at.tokens[lag], int(known.frequencies(ground).argmax()))
    )
    none = np.full(len(guess), np.nan, np.float32)
    right = (guess == at.tokens[lag]).numpy().astype(np.float32)
    return _named(Cell(name, lag, 0), at, {"right": right, "error": none, "spread": none, "gain": none})


def _named(cell: Cell, at: Seen, columns: Mapping[str, Array]) -> Mapping[str, Array]:
    n = len(at.document)
    return {
        "document": at.document,
        "position": at.position,
        "reader": np.full(n, cell.reader),
        "lag": np.full(n, cell.lag, np.int16),
        "layer": np.full(n, cell.layer, np.int16),
        "refit": np.full(n, cell.refit, np.int16),
        **columns,
    }


def _square(rows: Tensor) -> Array:
    return rows.square().sum(1).cpu().numpy().astype(np.float32)


def _read(ground: Ground, reading: Reading, tokens: Tensor) -> tuple[Tensor, Array]:
    """The nearest row, and ``log p(t|h) − log unigram(t)``, nats; NaN where the scores are not calibrated."""
    reader = ground.keep["reader"]
    beta = reading.beta or 1.0
    rows = Rows(reading.scored * beta, tokens[:, None].to(reading.row.device), beta=beta)
    (found,) = read(reader, [rows], reference=None, top_k=1, job=1 << 20)
    gain = found.logprob[:, 0] - known.unigram(ground)[tokens.numpy()]
    return torch.from_numpy(found.top_ids[:, 0]), (gain if reading.beta else np.full_like(gain, np.nan)).astype(
        np.float32
    )


def _units(ground: Ground, _records: Records) -> list[Unit]:
    return [Unit(f"texts-{number:03d}", texts) for number, texts in enumerate(batches(ground.texts["confirm"]))]


def _whole(ground: Ground, _records: Records) -> list[Unit]:
    return [Unit("texts", ground.texts["confirm"])]


def _refit_units(ground: Ground, records: Records) -> list[Unit]:
    return _units(ground, records)[::REFITTED]


STAGES = (
    Stage("places", _units, lambda ground, unit: places(ground, unit.what)),
    Stage("first", _whole, lambda ground, unit: first_tokens(ground, unit.what)),
    Stage("read", _units, lambda ground, unit: recovered(ground, unit.what, cells(ground), guesses=True)),
    Stage("refits", _refit_units, lambda ground, unit: recovered(ground, unit.what, again(ground), guesses=False)),
)
"""What is known of the tokens; first tokens; then all readers, then refitted maps on one unit in four."""


def cost(ground: Ground) -> Cost:
    """What it takes, its seconds from one text and one read-out on this machine."""
    size, confirm, some = SIZES[ground.size], ground.texts["confirm"], cells(ground)
    tokens = [min(len(text.ids), ground.model.context) for text in confirm]
    fitting = sum(min(len(text.ids), per_text(ground)) for text in ground.texts["fit"])
    looked = size.positions * len(some)
    looked += size.positions * len(again(ground)) // REFITTED
    passed = sum(tokens) + sum(tokens) // REFITTED + fitting
    reader = ground.keep.setdefault("reader", input_reader(ground.model.anatomy))
    h = torch.randn(256, ground.model.anatomy.width, generator=torch.Generator().manual_seed(0)).to(ground.model.device)
    run, look = _timed(lambda: seen(ground, confirm[:1], [])), _timed(lambda: top1(reader, h))
    seconds = passed / tokens[0] * run + looked / len(h) * look
    return Cost(passed / (sum(tokens) / len(tokens)), passed, looked, seconds)


def _timed(work: Callable[[], object]) -> float:
    """Seconds that it takes the second time."""
    work()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
