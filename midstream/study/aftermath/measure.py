"""What is measured: texts as they are, the model's own samples, lenses and writes at chosen positions, hidden ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.fit.least_squares import FIT_RATIO, HELD_OUT
from midstream.readout.read import Rows
from midstream.readout.read import read as read_rows
from midstream.readout.reader import Reader, input_reader
from midstream.record import Array
from midstream.sample.choose import Choice
from midstream.sample.generate import Options, generate
from midstream.stream.capture import capture, capture_sites
from midstream.stream.site import Place
from midstream.stream.vector import sinks
from midstream.study.aftermath import probe
from midstream.study.aftermath.condition import GUESS, NEAR, PROMPT, READ, SIZES, SPAN, layers
from midstream.study.aftermath.hide import Branch, Hiding, unable
from midstream.study.output import ids_of, logprobs, predicted, reader_of, table
from midstream.study.refit import MOST
from midstream.study.study import Columns, Ground, Text

WRITES = ("attn_out", "mlp_out")
"""What a block adds, where a family tells the two apart."""

MIDDLE = "resid_mid"
"""The stream between the two, where one follows the other."""


def check(ground: Ground) -> None:
    """Raise RequestError for a model or text that the study cannot be asked of."""
    model, longest = ground.model, len(ground.texts["confirm"][0].ids)
    if longest > model.context:
        raise RequestError(f"{model.name} reads {model.context} tokens: the study's texts have {longest}.")
    if why := unable(model, longest):
        raise RequestError(f"{model.name} cannot be studied here: {why}.")
    long, needed = probe.cut(ground), FIT_RATIO * probe.columns(model.anatomy.width)
    tokens = probe.tokens(ground)
    if tokens > model.context:
        other = {size: replace(ground, size=size) for size in SIZES}
        fit = [size for size, of in other.items() if probe.tokens(of) <= model.context and probe.memory(of) <= MOST]
        raise RequestError(
            f"{model.name} reads {model.context} tokens: maps of its width ask for {tokens} of each document. "
            + (f"Give --size {' or '.join(fit)}." if fit else "No --size asks for as few: ask a narrower model.")
        )
    if (memory := probe.memory(ground)) > MOST:
        raise RequestError(
            f"{model.name}, of width {model.anatomy.width:,}, would take {memory / 1e9:.0f} GB for the sums that its "
            f"maps are fitted from: expected {MOST / 1e9:.0f} GB at most. Run it at a smaller --size, or ask a "
            "narrower model."
        )
    fit, held = probe.positions(ground)
    if fit < needed or held < HELD_OUT or len(long) == len(ground.texts["fit"]):
        raise RequestError(
            f"there are {len(ground.texts['fit'])} documents to fit on, {len(long)} of them of {tokens} tokens, with "
            f"about {fit:,} positions in the smallest refit and {held:,} to choose a ridge: expected {needed:,} "
            f"({FIT_RATIO} for each input of a map) and {HELD_OUT}, and other documents beside them. Give a larger "
            "corpus."
        )


def sampled(ground: Ground, texts: Sequence[Text], seed: int) -> Columns:
    """The model's own continuation of the start of each text, to its length: its tokens, one row each."""
    length = len(texts[0].ids)
    found = [list(text.ids[:PROMPT]) for text in texts]
    options = Options(tokens=length - PROMPT, choice=Choice(temperature=1.0), seed=seed)
    for step in generate(ground.model, [tuple(one) for one in found], options):
        found[step.text].append(step.token)
    tokens = np.array(found, np.int32)
    return table(texts, {"token": tokens, "seed": np.full(tokens.shape, seed, np.int64)})


def read_out(ground: Ground, texts: Sequence[Text]) -> Array:
    """Log-probability of each next token of texts as they are, ``[b, t - 1]``."""
    ids, last = ids_of(ground, texts), ground.model.anatomy.layers
    return logprobs(ground, capture(ground.model, ids, layers=[last])[last][:, :-1], ids[:, 1:])[0]


def plain(ground: Ground, texts: Sequence[Text]) -> Columns:
    """Texts as they are, a row for each position i with a next token: what is read and predicted, its log-probability,
    whether i + 1 is an attention sink at a layer that is read, and what the maps make of the stream there."""
    ids, last = ids_of(ground, texts), ground.model.anatomy.layers
    stream = capture(ground.model, ids, layers=sorted({*layers(ground), last}))
    found = predicted(ground, stream[last][:, :-1], ids[:, 1:])
    sunk = torch.stack([sinks(stream[layer]) for layer in layers(ground)]).any(0)[:, 1:].cpu().numpy()
    tokens, logprob = ids.cpu().numpy().astype(np.int32), found.logprob.reshape(sunk.shape)
    named = {"token": tokens[:, :-1], "target": tokens[:, 1:], "logprob": logprob, "sink": sunk.astype(np.int16)}
    return table(texts, named | probe.read(ground, ids, stream, found.entropy))


@dataclass(frozen=True, eq=False)
class Spots:
    """Positions i of some texts: ``row[k]`` is which text, ``at[k]`` the position; after: also read at i + 1."""

    row: Array
    at: Array
    after: Array


def deep(ground: Ground, texts: Sequence[Text], spots: Spots) -> Columns:
    """Lenses and writes at chosen positions, a row for each and layer.

    At i: rank and log-probability of x_{i+1} under the tuned lens. At i + 1: rank of x_{i+1} and of x_i among the
    input rows, and how long what the block added is against the stream it was added to (for an MLP that follows
    attention, the stream between the two); NaN where not read.
    """
    ids, sites = ids_of(ground, texts), {*WRITES, MIDDLE} & set(ground.model.anatomy.sites)
    wanted: list[Place] = [(layer, "resid_post") for layer in layers(ground)]
    wanted += [(layer, site) for layer in layers(ground) if layer for site in sites]
    wanted += [(layer - 1, "resid_post") for layer in layers(ground) if layer]
    stream = capture_sites(ground.model, ids, wanted)
    row, at = (torch.from_numpy(part).to(ids.device) for part in (spots.row, spots.at))
    after = torch.from_numpy(spots.after).to(ids.device)
    found: list[dict[str, Array]] = []
    for layer in layers(ground):
        h = stream[layer, "resid_post"]
        found.append(
            {"layer": np.full(len(spots.at), layer, np.int32)}
            | _guess(ground, layer, h[row, at], ids[row, at + 1])
            | _input(ground, layer, h[row, at + 1], (ids[row, at + 1], ids[row, at]), after)
            | _writes(stream, layer, (row, at + 1), after)
        )
    numbers = np.array([text.number for text in texts], np.int32)[spots.row]
    tiled = {"document": numbers, "position": spots.at.astype(np.int32)}
    columns = {key: np.tile(value, len(found)) for key, value in tiled.items()}
    return columns | {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def _guess(ground: Ground, layer: int, h: Tensor, target: Tensor) -> dict[str, Array]:
    lens = ground.lenses["tuned"]
    reader = reader_of(ground)
    x = reader.prepare(lens.transport(layer, h))
    (read,) = read_rows(reader, [Rows(x, target[:, None])], reference=None, top_k=1, job=1 << 20)
    return {"guess_rank": read.rank[:, 0].astype(np.float32), "guess_logprob": read.logprob[:, 0]}


def _input(ground: Ground, layer: int, h: Tensor, tokens: tuple[Tensor, Tensor], after: Tensor) -> dict[str, Array]:
    if "input reader" not in ground.keep:
        ground.keep["input reader"] = input_reader(ground.model.anatomy)
    reader: Reader = ground.keep["input reader"]
    found: dict[str, Array] = {}
    for name, kind, wanted in zip(("token_rank", "previous_rank"), ("input:0", "input:1"), tokens, strict=True):
        x = reader.prepare(ground.lenses[kind].transport(layer, h[after]))
        (read,) = read_rows(reader, [Rows(x, wanted[after][:, None])], reference=None, top_k=1, job=1 << 20)
        found[name] = np.full(len(h), np.nan, np.float32)
        found[name][after.cpu().numpy()] = read.rank[:, 0]
    return found


def _writes(stream: dict[Place, Tensor], layer: int, where: tuple[Tensor, Tensor], after: Tensor) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for site in WRITES:
        onto = (layer, MIDDLE) if site == "mlp_out" and (layer, MIDDLE) in stream else (layer - 1, "resid_post")
        size = torch.full((len(after),), torch.nan, device=after.device)
        if (layer, site) in stream:
            written, before = (stream[place][where].float().norm(dim=-1) for place in ((layer, site), onto))
            size = torch.where(after, written / before, size)
        found[site] = size.cpu().numpy()
    return found


def hidden(ground: Ground, text: Text, at: Array, near: Array, how: Sequence[tuple[int, str]]) -> Columns:
    """What hiding a position costs, a row for each surprise i and condition: CE(hidden) - CE(plain), nats, mean over
    the predictions at i + 2 to i + 17.

    Args:
        at: ``[m]`` positions i; near: ``[m]`` the ordinary position before each that is hidden for comparison.
        how: (layer after which it is hidden, which of ``HIDDEN``).
    """
    ids, last = ids_of(ground, [text]), ground.model.anatomy.layers
    stream = capture(ground.model, ids, layers=sorted({*(layer for layer, _ in how), last}))
    after = at[:, None] + 2 + np.arange(SPAN)  # [m, span], the positions whose predictions count
    rows = torch.from_numpy(after).to(ids.device)
    targets = ids[0][rows + 1]
    logprob, _ = logprobs(ground, stream[last][0, rows], targets)
    places = {GUESS: at, READ: at + 1, NEAR: near}
    found: list[dict[str, Array]] = []
    for layer, which in groupby(sorted(how), key=lambda one: one[0]):
        names = [name for _, name in which]
        branches = [Branch(int(i) + 2, int(j)) for name in names for i, j in zip(at, places[name], strict=True)]
        final = hiding(ground).branched(ids[0], layer, stream[layer][0], branches, SPAN)
        under = logprobs(ground, final, targets.repeat(len(names), 1))[0]
        cost = (np.tile(logprob, (len(names), 1)) - under).mean(1)
        found.append(
            {
                "position": np.tile(at.astype(np.int32), len(names)),
                "layer": np.full(len(cost), layer, np.int32),
                "hidden": np.repeat(np.array(names), len(at)),
                "cost": cost,
            }
        )
    columns = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    return {"document": np.full(len(columns["cost"]), text.number, np.int32)} | columns


def hiding(ground: Ground) -> Hiding:
    """Made once, with means over fit texts."""
    if "hiding" not in ground.keep:
        size, texts = SIZES[ground.size].batch, probe.cut(ground)[:16]
        batches = [ids_of(ground, texts[start : start + size]) for start in range(0, len(texts), size)]
        ground.keep["hiding"] = Hiding.of(ground.model, batches)
    return ground.keep["hiding"]
