"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from midstream.record import Array, Estimate
from midstream.study.recovery.analysis import Panel
from midstream.study.recovery.plan import (
    FREQUENT,
    HELD,
    HELD_SHARE,
    LAGS,
    LESS,
    NOISY,
    OTHER,
    OWN,
    SHARED,
    TABLE,
    Cell,
    steps,
)
from midstream.study.recovery.token import KINDS
from midstream.study.report import Chart, Grid, Line, Section, counted, shown

LAYER, ACCURACY = "layer", "share of tokens that are the nearest row"


def percent(estimate: Estimate) -> str:
    """``46.1 % (43.9 to 48.2)`` of a share, which is never beyond 0 and 100; a dash where it is undefined."""
    if np.isnan(estimate.value):
        return "–"
    value = f"{100 * estimate.value:.1f} %"
    low, high = (100 * min(max(end, 0.0), 1.0) for end in (estimate.low, estimate.high))
    return value if np.isnan(estimate.low) else f"{value} ({low:.1f} to {high:.1f})"


def points(estimate: Estimate) -> str:
    """``+3.1 (+1.0 to +5.2)``, percentage points."""
    if np.isnan(estimate.value):
        return "–"
    value = f"{100 * estimate.value:+.1f}"
    return value if np.isnan(estimate.low) else f"{value} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def signed(estimate: Estimate) -> str:
    """``+0.031 (+0.010 to +0.052)``."""
    return shown(estimate, 3)


def by_layer(panel: Panel) -> Section:
    """The token read: how often it is found, at every layer."""
    guess = panel.accuracy(Cell(TABLE, 0, 0))
    rows = [
        (
            str(layer),
            percent(panel.accuracy(Cell(OWN, 0, layer))),
            _plain(panel.explained(Cell(OWN, 0, layer)), 3),
            _plain(panel.gain(Cell(OWN, 0, layer)), 2),
            *(
                percent(panel.accuracy(at)) if (at := Cell(r, 0, layer)) in panel.cells else "–"
                for r in (SHARED, OTHER)
            ),
            percent(panel.first_token(layer)),
        )
        for layer in panel.layers(OWN, 0)
    ]
    text = (
        f"Read at {len(panel.document):,} positions, {counted(panel.accuracy(Cell(OWN, 0, panel.blocks)))}. A linear "
        "map from the stream at a layer to the token's input row, fitted by least squares on other works; a token "
        "is found where its row is the nearest to what the map gives.",
        f"Without the stream: the most frequent token is right at {percent(panel.accuracy(Cell(FREQUENT, 0, 0)))}, "
        f"what most often came after the two tokens before it at {percent(guess)}. The gain in log-probability is "
        "that of a calibrated softmax over distances, less the token's log-frequency.",
        "The first token of a text is an attention sink, which the maps are not fitted on: it is shown apart and in no "
        "other number.",
    )
    heading = (LAYER, "own map", "R²", "gain, nats", "one map for all", "map of half depth", "first token")
    lines = [
        _line("own map", panel.layers(OWN, 0), panel.curve([Cell(OWN, 0, at) for at in panel.layers(OWN, 0)])),
        _line(
            "one map for all layers",
            panel.layers(SHARED, 0),
            panel.curve([Cell(SHARED, 0, at) for at in panel.layers(SHARED, 0)]),
        ),
        _line("back-off table, no stream", [0, panel.blocks], [guess, guess], "control"),
    ]
    chart = Chart(
        "input",
        "How often the token read is found again",
        LAYER,
        ACCURACY,
        tuple(lines),
        "Bands hold a whole curve at once in 95 % of samples of works.",
    )
    return Section("The token read", text, Grid(heading, tuple(rows)), chart)


def _plain(estimate: Estimate, digits: int) -> str:
    if np.isnan(estimate.value):
        return "–"
    value = f"{estimate.value:.{digits}f}"
    return value if np.isnan(estimate.low) else f"{value} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _line(name: str, layers: Sequence[int], found: Sequence[Estimate], role: str = "main") -> Line:
    return Line(
        name,
        tuple(float(layer) for layer in layers),
        tuple(one.value for one in found),
        tuple(one.low for one in found),
        tuple(one.high for one in found),
        role,
    )


def earlier(panel: Panel) -> Section:
    """Tokens further back."""
    rows: list[tuple[str, ...]] = []
    for layer in steps(panel.blocks):
        cells = [Cell(OWN, lag, layer) for lag in LAGS[1:]]
        shared = percent(panel.accuracy(Cell(SHARED, 1, layer)))
        rows.append((str(layer), *(percent(panel.accuracy(cell)) for cell in cells), shared))
    rows += [
        (f"{name}, no stream", *(percent(panel.accuracy(Cell(name, lag, 0))) for lag in LAGS[1:]), "–")
        for name in (TABLE, FREQUENT)
    ]
    text = (
        "The token j before the one read, by a map of its own for each layer and lag. At layer 0 the stream holds "
        "the token read alone, so that layer 0 says what a linear map makes of this token about those before it; the "
        "table knows what most often came j before the token read. The nearest row to a prediction that is little "
        "better than the mean row is a poor reader: R² and the calibrated gain, below, say more at the larger lags.",
    )
    lines = [
        _line(f"lag {lag}", at, panel.curve([Cell(OWN, lag, layer) for layer in at]), "main" if lag < 2 else "control")
        for lag in LAGS[1:]
        if (at := panel.layers(OWN, lag))
    ]
    chart = Chart(
        "earlier",
        "How often earlier tokens are found",
        LAYER,
        ACCURACY,
        tuple(lines),
        "Lag j: the token j before the one read. Bands hold a whole curve at once in 95 % of samples of works.",
    )
    heading = (LAYER, *(f"lag {lag}" for lag in LAGS[1:]), "lag 1, one map for all")
    return Section("Earlier tokens", text, Grid(heading, tuple(rows)), chart)


def added(panel: Panel) -> Section:
    """What the stream says of earlier tokens beyond the token read."""
    layers = [at for at in _few(panel) if at > 0]
    rows: list[tuple[str, ...]] = []
    for layer in layers:
        for lag in LAGS[1:]:
            cell, base, table = Cell(OWN, lag, layer), Cell(OWN, lag, 0), Cell(TABLE, lag, 0)
            own = panel.right(cell)
            rows.append(
                (
                    f"{layer}, lag {lag}",
                    points(panel.mean(own - panel.right(base))),
                    points(panel.mean(own - panel.right(table))),
                    _plain(panel.explained(cell), 3),
                    _plain(panel.explained(base), 3),
                    _plain(panel.gain(cell), 2),
                    _plain(panel.gain(base), 2),
                )
            )
    heading = (
        "layer and lag",
        "found, over layer 0, points",
        "over the table, points",
        "R²",
        "R² at layer 0",
        "gain, nats",
        "gain at layer 0",
    )
    return Section("Earlier tokens, beyond what the token read tells", (), Grid(heading, tuple(rows)))


def by_kind(panel: Panel) -> Section:
    """What kinds of token are kept."""
    layers = _few(panel)
    rows = [
        (f"{name} ({int(where.sum()):,})", *(percent(panel.accuracy(Cell(OWN, 0, layer), where)) for layer in layers))
        for name in KINDS
        if (where := panel.known["kind"] == name).any()
    ]
    text = (
        "Own map of each layer. A name is a capitalised word that does not begin a sentence; a continuation is a "
        "piece of a word after its first.",
    )
    heading = ("kind of token (places)", *(f"layer {layer}" for layer in layers))
    return Section("Kinds of token", text, Grid(heading, tuple(rows)))


def _few(panel: Panel) -> list[int]:
    return sorted({panel.at(share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)})


def unseen(panel: Panel) -> Section:
    """Whether the maps know the tokens or the space."""
    held = panel.known["unseen"] == 1
    rows = [
        (
            str(layer),
            *(percent(panel.accuracy(Cell(reader, 0, layer), held)) for reader in (LESS, HELD)),
            *(_plain(panel.explained(Cell(reader, 0, layer), held), 3) for reader in (LESS, HELD)),
        )
        for layer in steps(panel.blocks)
    ]
    text = (
        f"At the places of a fifth of the token types ({100 * HELD_SHARE:.0f} %; {int(held.sum()):,} places): two "
        "maps fitted on the same texts, fewer than the lens's, one with all types and one without these.",
    )
    heading = (LAYER, "all types seen", "these not seen", "R², all types seen", "R², these not seen")
    return Section("Types that the fit has not seen", text, Grid(heading, tuple(rows)))


def rarer(panel: Panel) -> Section:
    """Whether rarer tokens are kept better late."""
    rare, frequent, alone = panel.rare
    rows = [
        (
            str(layer),
            *(percent(_weighed(panel, panel.right(Cell(OWN, 0, layer)), weight)) for weight in (rare, frequent)),
            *(_plain(_weighed(panel, _gains(panel, layer), weight), 2) for weight in (rare, frequent)),
            points(panel.kept(Cell(OWN, 0, layer))),
            points(panel.kept(Cell(NOISY, 0, layer))),
            signed(panel.kept_by_r2(layer)),
        )
        for layer in steps(panel.blocks)
    ]
    types = [len(np.unique(panel.known["token"][weight > 0])) for weight in (rare, frequent)]
    text = (
        f"Rare: the third of the places whose tokens come least in the texts to fit on ({int((rare > 0).sum()):,} "
        f"matched places of {types[0]:,} types; {100 * alone:.0f} % have no partner); frequent: the third that come "
        f"most ({int((frequent > 0).sum()):,} of {types[1]:,} types). Matched by the distance to the nearest other "
        "row and the row's norm, since a row that stands alone is found through more noise.",
        "Control: the token's own row and white noise, from which the best linear map predicts the row as well, by "
        "R² at the same places, as the layer's map does. Such a map too prefers frequent tokens. How often either is "
        "found has a floor and a ceiling; R² has not, and decides: R² of rare less of frequent tokens, own map less "
        "control.",
    )
    heading = (
        LAYER,
        "rare found",
        "frequent found",
        "gain, rare, nats",
        "gain, frequent",
        "rare − frequent found, points",
        "row and noise, points",
        "by R², less row and noise",
    )
    return Section("Are rarer tokens kept better?", text, Grid(heading, tuple(rows)))


def _weighed(panel: Panel, values: Array, weights: Array) -> Estimate:
    return panel.mean(values, weights=weights)


def _gains(panel: Panel, layer: int) -> Array:
    return panel.cells[Cell(OWN, 0, layer)]["gain"].astype(np.float64)


def ends(panel: Panel) -> Section:
    """Where one map for all layers loses."""
    layers = panel.layers(SHARED, 0)
    found = [panel.mean(panel.right(Cell(OWN, 0, at)) - panel.right(Cell(SHARED, 0, at))) for at in layers]
    chart = Chart(
        "shared",
        "What one map for all layers loses against a layer's own",
        LAYER,
        "difference of the share found",
        (_line("own map − one for all", layers, found),),
        "Each point's own 95 % interval over works.",
    )
    text = (
        "The origin proposes both: a map a layer, and one trained on all of them together, which is right only where "
        "layers keep the input in the same directions.",
    )
    return Section("One map for all layers", text, None, chart)


def sections(panel: Panel) -> Iterable[Section]:
    """All of them, in order."""
    return by_layer(panel), earlier(panel), added(panel), ends(panel), by_kind(panel), unseen(panel), rarer(panel)


def at_layers(panel: Panel, cells: Sequence[Cell]) -> str:
    """``97 % at layer 2, 47 % at layer 30``."""
    return ", ".join(f"{percent(panel.accuracy(cell))} at layer {cell.layer}" for cell in cells)
