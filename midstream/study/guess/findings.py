"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from midstream.record import Array, Estimate
from midstream.study.guess.analysis import Cut, Panel
from midstream.study.guess.reading import GUESS, OTHERS, PARTS, RANDOM, REST
from midstream.study.guess.setting import DECILE, EPSILONS, FIRST, PRIMARY
from midstream.study.report import Chart, Grid, Line, Section, counted, shown
from midstream.study.study import Columns, Records

Cuts = Mapping[int, Mapping[float, Cut]]

POINTS = 17
"""Places on the axis of coordinates at which a curve is drawn."""

BAND = "Bands hold a whole curve at once in 95 % of samples of works."


def line(name: str, x: Sequence[float], found: Sequence[Estimate], role: str = "main") -> Line:
    """A curve of estimates."""
    ends = tuple(one.low for one in found), tuple(one.high for one in found)
    return Line(name, tuple(map(float, x)), tuple(one.value for one in found), *ends, role)


def bare(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """A curve without intervals, to be held against."""
    none = (float("nan"),) * len(x)
    return Line(name, tuple(map(float, x)), tuple(map(float, y)), none, none, "control")


def spread(random: Array) -> str:
    """The middle 95 % of what random bases gave."""
    low, high = np.quantile(random, [0.025, 0.975])
    return f"{random.mean():.3f} ({low:.3f} to {high:.3f})"


def extent(random: Array) -> str:
    """Mean and range."""
    return f"{random.mean():.3f} ({random.min():.3f} to {random.max():.3f})"


def divided(panel: Panel, found: Cuts) -> Section:
    """What the guess's part tells of the input, by layer."""
    at = list(found)
    cut = {layer: found[layer][PRIMARY] for layer in at}
    shares = panel.curve([panel.share(layer, cut[layer].k) for layer in at])
    varied = [panel.estimate(panel.share(layer, cut[layer].k, order="variance")) for layer in at]
    rows = tuple(
        (
            str(layer),
            f"{cut[layer].k} of {cut[layer].rank}",
            shown(panel.estimate(panel.told_at(layer)), 3),
            shown(panel.estimate(panel.told_at(layer, slice(0, cut[layer].k))), 3),
            shown(panel.estimate(panel.told_at(layer, slice(cut[layer].k, None))), 3),
            shown(share, 3),
            "{:.3f} ± {:.3f}".format(*panel.random_share(layer, cut[layer])),
            extent(panel.turned_shares(layer, PRIMARY)),
            f"{other.value:.3f}",
        )
        for layer, share, other in zip(at, shares, varied, strict=True)
    )
    first = panel.estimate(panel.told_at(at[0]))
    text = (
        "Guess S: the smallest number k of whitened coordinates, by relevance to what is read, from which the lens "
        f"reads as much but for {PRIMARY:g} nats of KL (chosen on other works). Beside it: the rest. One linear "
        "decoder of the token's input row, fitted on other works, serves both; what it explains is the sum of what "
        f"either part explains (to rounding). {first.documents} documents, {counted(first)}; positions from {FIRST} "
        "on, sinks left out.",
        "A part of k coordinates chosen blindly would tell k of all d (random: mean ± standard deviation). Turned: S "
        "of an output that looks at the stream as unevenly, turned at random (mean and range). By variance: the "
        "first k principal components. Both say what large directions tell, whatever the output is. What both S and "
        "the rest would tell counts for S.",
    )
    heading = ("layer", "k", "R² of the whole", "of S", "beside S", "share of S", "random", "turned", "by variance")
    lines = (
        line("guess, S", at, shares),
        bare("outputs turned at random", at, [float(panel.turned_shares(layer, PRIMARY).mean()) for layer in at]),
        bare("chance, k/d", at, [cut[layer].chance for layer in at]),
    )
    chart = Chart(
        "layers",
        f"What the guess tells of the input, of all that the stream tells, {PRIMARY:g} nats",
        "layer",
        "share of the explained",
        lines,
        "Above chance the input goes through the guess, below it lies beside; above outputs turned at random it is "
        f"this guess that tells it. {BAND}",
    )
    return Section("Through the guess, or beside it", text, Grid(heading, rows), chart)


def over_epsilon(panel: Panel, found: Cuts) -> Section:
    """The same for every epsilon, and over all cuts."""
    rows: list[tuple[str, ...]] = []
    for layer, by in found.items():
        for epsilon in EPSILONS:
            cut = by[epsilon]
            less = panel.estimate(panel.share(layer, cut.k, less=cut.chance))
            parts = f"{cut.added:.4f}", f"{cut.moved:.4f}", f"{cut.chance:.3f}", shown(less, 3)
            rows.append((str(layer), f"{epsilon:g}", str(cut.k), *parts))
    text = (
        "Each cut was searched on works that only choose: added is E[KL(final ‖ read from S)] − E[KL(final ‖ read "
        "from all)] there, which is what “adds” says; moved is E[KL(read from all ‖ read from S)]. The two agree "
        "where what is read is calibrated. Share less chance: above 0 through the guess, below 0 beside it.",
    )
    heading = ("layer", "at most, nats", "k", "added, nats", "moved, nats", "chance, k/d", "share less chance")
    where = panel.layers
    lines = [bare("chance", [0.0, 100.0], [0.0, 1.0])]
    for layer in where.shown:
        rank = found[layer][PRIMARY].rank
        ks = np.unique(np.linspace(0, rank, POINTS).round().astype(int))
        curve = panel.curve([panel.share(layer, int(k)) for k in ks[1:-1]])
        lines.append(line(f"layer {layer}", (100 * ks[1:-1] / rank).tolist(), curve))
    chart = Chart(
        "curve",
        "What the first coordinates by relevance tell of the input",
        "coordinates, % of all",
        "share of the explained",
        tuple(lines),
        f"On the diagonal the output's interest says nothing of where the input is. {BAND}",
    )
    return Section("Over how much of the guess may be lost", text, Grid(heading, tuple(rows)), chart)


def alone(panel: Panel, records: Records) -> Section:
    """What is read and decoded from parts alone."""
    columns, where = records["read"], panel.layers
    rows: list[tuple[str, ...]] = []
    for layer in where.shown:
        for part in PARTS:
            at = (columns["layer"] == layer) & (columns["part"] == part)
            rows.append((str(layer), NAMES[part], *_alone(columns, at)))
    documents = len(np.unique(columns["document"]))
    text = (
        f"One document of each work ({documents}), cut at {PRIMARY:g} nats. KL: of what the lens reads from this part "
        "alone, the other coordinates at their mean, to the output. Found: how often the input row nearest to what "
        "is decoded from this part is the token read. R²: one less the squared error over that of the mean row, on "
        "texts the decoder has not seen, so that the parts' add up but for how the fit's covariance differs from "
        "theirs. Plain means over positions, for orientation; random parts have as many coordinates.",
    )
    return Section("Each part read alone", text, Grid(("layer", "part", "KL, nats", "found", "R²"), tuple(rows)))


NAMES = {"all": "all", GUESS: "guess, S", REST: "beside it", RANDOM: "random, as many as S", OTHERS: "all but these"}


def _alone(columns: Columns, at: Array) -> tuple[str, ...]:
    n = columns["positions"][at].sum()
    left = columns["error"][at].sum() / columns["square"][at].sum()
    return (
        f"{columns['kl'][at].sum() / n:.3f}",
        f"{100 * columns['right'][at].sum() / n:.1f} %",
        f"{1 - left:.3f}",
    )


def literal(panel: Panel, decided: Estimate) -> Section:
    """Whether what is told lies in basis elements that the output weights little."""
    at = list(panel.variance)
    numbers = [panel.correlation(layer, less=0.0) for layer in at]
    curve = panel.curve(numbers)
    rows = tuple(
        (str(layer) + (" (apart)" if layer == 0 else ""), shown(one, 3), spread(panel.random_correlations(layer)))
        for layer, one in zip(at, curve, strict=True)
    )
    low, quarter, middle, three, high = np.quantile(panel.weight, [0, 0.25, 0.5, 0.75, 1])
    tenth = np.quantile(panel.weight, 1 / DECILE)
    text = (
        "The literal test: for each basis element of the stream, what the input loses when it is dropped and the "
        "decoder refitted, β²/(Σ⁻¹), against how much it moves the logits, its gain in the final norm × the length "
        "of its column of the centred unembedding × its standard deviation; rank correlation given log variance. "
        "Below what random orthonormal bases give, the input leans on elements that the output weights little. Layer "
        "0 stands apart: there the stream is the input row, and where the embeddings are tied its shape fixes the "
        "number.",
        f"Gain × length runs from {low:.3g} to {high:.3g} over the {len(panel.weight)} elements; quarters at "
        f"{quarter:.3g}, {middle:.3g}, {three:.3g}; the lowest decile lies below {tenth:.3g}.",
        f"At layer {panel.layers.late}, less the mean of random bases, the interval widened by their spread: "
        f"{shown(decided, 3)}.",
    )
    random = [panel.random_correlations(layer) for layer in at]
    none = Line(
        "random bases, middle 95 %",
        tuple(map(float, at)),
        tuple(float(one.mean()) for one in random),
        tuple(float(np.quantile(one, 0.025)) for one in random),
        tuple(float(np.quantile(one, 0.975)) for one in random),
        "control",
    )
    chart = Chart(
        "elements",
        "Do elements that the output weights much hold more of the input?",
        "layer",
        "partial rank correlation",
        (line("the stream's own basis", at, curve), none),
        f"Below the random bases: the input is where the output looks little. {BAND}",
    )
    heading = ("layer", "own basis", "random bases, mean and middle 95 %")
    return Section("The stream's own coordinates", text, Grid(heading, rows), chart)


def filled(panel: Panel, found: Cuts, decided: Estimate) -> Section:
    """Whether coordinates that the output weights little come to hold the prediction."""
    at, where = list(panel.variance), panel.layers
    little = dict.fromkeys(at, panel.little)
    beside = {layer: panel.beside(layer) for layer in at}
    curves = [panel.curve([panel.foretold(layer, which[layer]) for layer in at]) for which in (little, beside)]
    rows: list[tuple[str, ...]] = [
        (str(layer), shown(one, 3), shown(other, 3)) for layer, one, other in zip(at, *curves, strict=True)
    ]
    risen = (shown(panel.estimate(panel.risen(which)), 3) for which in (little, beside))
    rows.append((f"{where.half} to {where.before}, risen by", *risen))
    level = {layer: np.log(panel.variance[layer]) for layer in at}
    off = max(abs(float(level[layer][beside[layer]].mean() - level[layer][panel.little].mean())) for layer in at)
    cut = found[where.last][PRIMARY]
    text = (
        "“Slot in the appropriate predictive information, eventually”: how well the final prediction foretells, "
        f"linearly, the decile of basis elements that the output weights least ({len(panel.little)} of "
        f"{len(panel.weight)}), each in units of its variance. The final prediction is S at the last layer: the "
        f"{cut.k} whitened coordinates that give the output but for {PRIMARY:g} nats. All logits would determine the "
        "whole last stream and foretell everything there, by definition. Control: as many elements of output weight "
        f"above the median, matched on variance at each layer (mean log variance differs by {off:.2f} at most).",
        "All elements are foretold better towards the end, where the stream comes near the last one, in a model of "
        "random weights too: what is slotted in is what the least weighted gain more than the control, "
        f"{shown(decided, 3)}.",
    )
    chart = Chart(
        "filled",
        "How well the final prediction foretells basis elements",
        "layer",
        "R²",
        (line("least weighted decile", at, curves[0]), line("weighted more, equal variance", at, curves[1], "control")),
        BAND,
    )
    heading = ("layer", "least weighted decile", "control")
    return Section("Elements that the output weights least", text, Grid(heading, tuple(rows)), chart)
