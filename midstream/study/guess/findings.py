"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from midstream.record import Array, Estimate
from midstream.study.guess.analysis import Number, Panel, detected
from midstream.study.guess.cut import Cut
from midstream.study.guess.reading import GUESS, OTHERS, PARTS, RANDOM, REST
from midstream.study.guess.setting import DECILE, EPSILONS, FIRST, PREDICTED, PRIMARY
from midstream.study.report import Chart, Grid, Line, Section, counted, shown
from midstream.study.study import Columns, Records

Cuts = Mapping[int, Mapping[float, Cut]]

TAIL = 0.025
"""Of the draws of chance at either end, left out where there are enough of them."""

BAND = "Bands hold a whole curve at once in 95 % of samples of works."


def line(name: str, x: Sequence[float], found: Sequence[Estimate], role: str = "main") -> Line:
    """A curve of estimates."""
    ends = tuple(one.low for one in found), tuple(one.high for one in found)
    return Line(name, tuple(map(float, x)), tuple(one.value for one in found), *ends, role)


def bare(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """A curve without intervals, to be held against."""
    none = (float("nan"),) * len(x)
    return Line(name, tuple(map(float, x)), tuple(map(float, y)), none, none, "control")


def ranged(name: str, x: Sequence[float], draws: Sequence[Array], tail: float = 0.0) -> Line:
    """The means of what chance gave, with their range but for so much at either end."""
    low, high = (tuple(float(np.quantile(one, q)) for one in draws) for q in (tail, 1 - tail))
    return Line(name, tuple(map(float, x)), tuple(float(one.mean()) for one in draws), low, high, "control")


def extent(draws: Array, tail: float = 0.0) -> str:
    """Mean, and range but for so much at either end."""
    if np.isnan(draws).any():
        return "–"
    low, high = np.quantile(draws, [tail, 1 - tail])
    return f"{draws.mean():.3f} ({low:.3f} to {high:.3f})"


def by_layer(panel: Panel, number: Callable[[int], Number]) -> dict[int, Estimate]:
    """An estimate a layer, with intervals that hold together; layer 0, which is the input row, by itself."""
    at = [layer for layer in panel.layers.all if layer > 0]
    first = {layer: panel.estimate(number(layer)) for layer in panel.layers.all if layer == 0}
    return first | dict(zip(at, panel.curve([number(layer) for layer in at]), strict=True))


def later(name: str, found: Mapping[int, Estimate], role: str = "main") -> Line:
    """A curve over the layers after 0."""
    at = [layer for layer in found if layer > 0]
    return line(name, at, [found[layer] for layer in at], role)


def named(layer: int) -> str:
    """Of a layer in a table."""
    return f"{layer} (apart)" if layer == 0 else str(layer)


def divided(panel: Panel, found: Cuts) -> Section:
    """What the guess's part tells of the input, by layer."""
    cut = {layer: by[PRIMARY] for layer, by in found.items()}
    shares = by_layer(panel, lambda layer: panel.share(layer, cut[layer].k))
    turned = {layer: panel.turned_shares(layer, cut[layer].k) for layer in cut}
    rows = tuple(
        (
            named(layer),
            f"{cut[layer].k} of {cut[layer].rank}",
            shown(panel.estimate(panel.told_at(layer)), 3),
            shown(panel.estimate(panel.told_at(layer, slice(0, cut[layer].k))), 3),
            shown(panel.estimate(panel.told_at(layer, slice(cut[layer].k, None))), 3),
            shown(share, 3),
            "{:.3f} ± {:.3f}".format(*panel.random_share(layer, cut[layer])),
            extent(turned[layer]),
        )
        for layer, share in shares.items()
    )
    first = next(iter(shares.values()))
    text = (
        "Guess S: the smallest number k of whitened coordinates, by relevance to what is read, from which the lens "
        f"reads as much but for {PRIMARY:g} nats of KL (chosen on other works). Beside it: the rest. One linear "
        "decoder of the token's input row, fitted on other works, serves both; what it explains is the sum of what "
        f"either part explains (to rounding). {first.documents} documents, {counted(first)}; positions from {FIRST} "
        "on, sinks left out.",
        "R² here is the product of the decoder's prediction and the truth over the truth's square, summed: parts add "
        "up in it. A part of k coordinates chosen blindly would tell k of all d (random: mean ± standard deviation). "
        "Turned: as many of an output that looks at the stream as unevenly, turned at random (mean and range): what "
        "large directions tell, whatever the output is. What both S and the rest would tell counts for S.",
    )
    heading = ("layer", "k", "R² of the whole", "of S", "beside S", "share of S", "random", "turned")
    at = [layer for layer in cut if layer > 0]
    lines = (
        later("guess, S", shares),
        ranged("outputs turned at random", at, [turned[layer] for layer in at]),
        bare("chance, k/d", at, [cut[layer].chance for layer in at]),
    )
    chart = Chart(
        "layers",
        f"What the guess tells of the input, of all that the stream tells, {PRIMARY:g} nats",
        "layer",
        "share of the explained",
        lines,
        "Through the guess: above chance and above outputs turned at random (mean and range). Beside it: below both. "
        f"{BAND}",
    )
    return Section("Through the guess, or beside it", text, Grid(heading, rows), chart)


def over_epsilon(panel: Panel, found: Cuts) -> Section:
    """The same for every epsilon."""
    rows: list[tuple[str, ...]] = []
    for layer, by in found.items():
        for epsilon, cut in by.items():
            ks = f"{cut.k} ({min(cut.again)} to {max(cut.again)})" if cut.again else str(cut.k)
            shares = [panel.share(layer, cut.k, order=order).value for order in ("relevance", "variance")]
            parts = f"{cut.added:.4f}", f"{cut.moved:.4f}", f"{cut.chance:.3f}", f"{shares[0]:.3f}"
            parts = *parts, extent(panel.turned_shares(layer, cut.k)), f"{shares[1]:.3f}"
            rows.append((named(layer), f"{epsilon:g}", ks, *parts))
    text = (
        "Each cut was searched on works that only choose (k, and its range without one of these works each): added is "
        "E[KL(final ‖ read from S)] − E[KL(final ‖ read from all)] there, which is what “adds” says; moved is "
        "E[KL(read from all ‖ read from S)]. The two agree where what is read is calibrated. By variance: the first k "
        "principal components.",
    )
    heading = ("layer", "at most, nats", "k", "added", "moved", "chance, k/d", "share of S", "turned", "by variance")
    late = panel.layers.late
    at, ks = np.log10(EPSILONS).tolist(), [found[late][epsilon].k for epsilon in EPSILONS]
    own, varied = (panel.curve([panel.share(late, k, order=order) for k in ks]) for order in ("relevance", "variance"))
    lines = (
        line("guess, S", at, own),
        ranged("outputs turned at random", at, [panel.turned_shares(late, k) for k in ks]),
        line("principal components", at, varied, "control"),
        bare("chance, k/d", at, [found[late][epsilon].chance for epsilon in EPSILONS]),
    )
    chart = Chart(
        "epsilon",
        f"What the guess tells of the input, by how much of it may be lost, layer {late}",
        "nats that reading from S may add",
        "share of the explained",
        lines,
        f"All at the k of S, {', '.join(map(str, ks))}. Input and guess are told apart where S lies above or below the "
        f"outputs turned at random (mean and range). {BAND}",
        tuple((x, f"{epsilon:g}") for x, epsilon in zip(at, EPSILONS, strict=True)),
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
        "is decoded from this part is the token read. R² here is the usual one, one less the squared error over that "
        "of the mean row, which charges the decoder for errors of its scale on texts it has not seen: it is lower "
        "than that of the first table, and the parts' add up only about. Plain means over positions, for orientation; "
        "random parts have as many coordinates.",
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
    numbers = by_layer(panel, panel.correlation)
    random = {layer: panel.random_correlations(layer) for layer in numbers}
    rows = tuple((named(layer), shown(one, 3), extent(random[layer], TAIL)) for layer, one in numbers.items())
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
        f"{shown(decided, 3)}; {told(decided)}.",
    )
    at = [layer for layer in random if layer > 0]
    lines = (
        later("the stream's own basis", numbers),
        ranged("random bases, middle 95 %", at, [random[layer] for layer in at], TAIL),
    )
    chart = Chart(
        "elements",
        "Do elements that the output weights much hold more of the input?",
        "layer",
        "partial rank correlation",
        lines,
        f"Below the random bases: the input is where the output looks little. {BAND}",
    )
    heading = ("layer", "own basis", "random bases, mean and middle 95 %")
    return Section("The stream's own coordinates", text, Grid(heading, rows), chart)


def told(decided: Estimate) -> str:
    """How large an effect such an interval lets see."""
    least = detected(decided)
    if np.isnan(least):
        return "without an interval no effect can be told"
    return f"with such an interval an effect of {least:.2f} would be told from none in 80 % of runs"


def slotted(panel: Panel, found: Cuts, decided: Estimate) -> Section:
    """Whether coordinates that the output weights little come to hold the prediction."""
    where = panel.layers
    shown_as = [(which, epsilon) for epsilon in PREDICTED for which in (panel.little, panel.control)]
    curves = [by_layer(panel, lambda at, w=which, e=epsilon: panel.foretold(at, w, e)) for which, epsilon in shown_as]
    rows = [(named(layer), *(shown(curve[layer], 3) for curve in curves)) for layer in where.all]
    risen = [panel.risen(which, epsilon) for which, epsilon in shown_as]
    rows.append((f"{where.half} to {where.before}, risen by", *(shown(panel.estimate(one), 3) for one in risen)))
    off = max(
        abs(float(np.log(panel.variance[layer][panel.control] / panel.variance[layer][panel.little]).mean()))
        for layer in (where.half, where.before)
    )
    ks = [found[where.last][epsilon].k for epsilon in PREDICTED]
    text = (
        "“Slot in the appropriate predictive information, eventually”: how well the final prediction foretells, "
        f"linearly, the decile of basis elements that the output weights least ({len(panel.little)} of "
        f"{len(panel.weight)}), each in units of its variance. The final prediction is S at the last layer, the "
        f"{ks[0]} whitened coordinates that give the output but for {PREDICTED[0]:g} nats; since these are nearly all "
        f"that there are, also the {ks[1]} that give it but for {PREDICTED[1]:g}. All logits would determine the whole "
        "last stream and foretell everything there, by definition. Control: as many elements of output weight above "
        f"the median, one set for all layers, matched on variance at layers {where.half} and {where.before} (mean log "
        f"variance differs by {off:.2f} at most).",
        "All elements are foretold better towards the end, where the stream comes near the last one, in a model of "
        "random weights too: what is slotted in is what the least weighted gain more than the control, "
        f"{shown(decided, 3)}; {told(decided)}. With the prediction kept but for {PREDICTED[1]:g} nats it is "
        f"{shown(panel.estimate(panel.filled(PREDICTED[1])), 3)}.",
    )
    names = [
        (f"{kind}, {epsilon:g} nats", "control" if "more" in kind else "main")
        for epsilon in PREDICTED
        for kind in ("weighted least", "weighted more")
    ]
    lines = [later(name, curve, role) for (name, role), curve in zip(names, curves, strict=True)]
    chart = Chart("filled", "How well the final prediction foretells basis elements", "layer", "R²", tuple(lines), BAND)
    return Section(
        "Elements that the output weights least", text, Grid(("layer", *(n for n, _ in names)), tuple(rows)), chart
    )
