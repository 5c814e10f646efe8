"""What weight decay did to the toys: changes from their own start at equal loss, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from midstream.band import runs
from midstream.record import Array, Estimate
from midstream.study.aftermath.continuity import FIRST
from midstream.study.aftermath.training import NEEDS, RECIPES, SIZES, START, Size, check, cost, measure, units
from midstream.study.report import Chart, Grid, Line, Section, shown
from midstream.study.study import Arm, Columns, Records, Stage
from midstream.study.verdict import Claim, Verdict, decide

STAGE = "toy"

CLAIM = Claim(
    name="gradual by decay",
    says="Weight decay makes the stream change gradually with depth: of models trained to equal loss those with decay "
    "0.3 have successive layers closer together than those without.",
    estimand="log(1 − cosine) of the stream at successive layers of toys, each layer's mean left out; mean over layers "
    "but the first; what training to equal loss has changed of it, with decay 0.3 less with none, paired by seed",
    unit="log units",
    side="below",
    threshold=0.0,
    matters=math.log(1.25),
    fewest=5,
    counts="seeds",
)

PREDICTION = (
    "Toy arm. What is claimed was proposed at the origin: weight decay would be why the stream changes gradually with "
    "depth, so decay 0.3 should lower log(1 − cosine); by a factor of 1.25 in 1 − cosine or more, to matter. Our own "
    "prediction, written on 2026-11-30 before any state of a trained model was looked at, is the opposite: at equal "
    "loss decay 0.3 raises the cosine of successive layers, their means left out, by less than 0.02 over no decay, and "
    "the read-outs' agreement with the last layer by less than 0.05, since blocks read the stream through a norm, so "
    "that shrinking all that is written, and the embeddings with it, changes no proportion; and the scale of the first "
    "writes moves the change from the start by less than 0.05. The logarithm, and the verdict on it, came after 7 "
    "trainings had been read by the cosine, which is near its ceiling: in the two seeds with both, the logarithm was "
    "about 0.42 higher with decay 0.3. Those two seeds are not among those that count here."
)

PAIRS = {
    "decay 0.3 − 0": ("decay 0.3", "decay 0"),
    "decay 0.1 − 0": ("decay 0.1", "decay 0"),
    "scaled − unscaled": ("decay 0.1", "decay 0.1, unscaled"),
}
"""Which recipes are compared, the first less the second; the first pair is what the arm is about."""

PRIMARY = "distance"

MEASURES = {PRIMARY: "log(1 − cosine), no means", "cosine": "cosine", "agreement": "read-out agrees"}
"""Columns of the records, as the table calls them."""

TITLE = "Weight decay and how gradually the stream changes, in toys"

ASIDE = "Not run here. midstream study what_happens_after_a_surprise --arm toy trains small models to see."

Models = Mapping[tuple[str, int, float], Columns]
"""Recipe, seed and level -> what was read of that model there, one row a layer; NaN where it did not come to it."""


def models(columns: Columns) -> Models:
    """The records by model and level."""
    keys = zip(columns["recipe"].tolist(), columns["seed"].tolist(), columns["level"].tolist(), strict=True)
    rows: dict[tuple[str, int, float], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {key: {name: values[some] for name, values in columns.items()} for key, some in rows.items()}


def reached(found: Models, recipe: str, level: float) -> list[int]:
    """Seeds of which the model of a recipe came to a level."""
    return sorted(
        seed
        for (name, seed, at), columns in found.items()
        if (name, at) == (recipe, level) and not math.isnan(columns["tune"][0])
    )


def paired(found: Models, pair: tuple[str, str], level: float) -> list[int]:
    """Seeds of which the models of both recipes came to a level."""
    one, other = (reached(found, recipe, level) for recipe in pair)
    return [seed for seed in one if seed in other]


def change(found: Models, recipe: str, seed: int, level: float, name: str) -> Array:
    """What training to a level has done to a measure, from the model's own start: ``[L]``."""
    return found[recipe, seed, level][name] - found[recipe, seed, START][name]


def difference(found: Models, pair: tuple[str, str], level: float, name: str) -> Array:
    """Of the changes of two recipes, paired: ``[seeds, L]``, above 0 where the first's is larger."""
    seeds = paired(found, pair, level)
    one, other = ([change(found, recipe, seed, level, name) for seed in seeds] for recipe in pair)
    return np.array(one) - np.array(other)


def overall(differences: Array) -> Estimate:
    """Of all layers but the first, ``[seeds, L]``: what opens the stream is a step of its own kind."""
    return runs(differences[:, 1:].mean(1), unit="1")


def by_layer(differences: Array) -> list[Estimate]:
    """Of each layer, ``[seeds, L]``, intervals that hold all at once in 95 % of samples (Bonferroni)."""
    return [runs(values, unit="1", level=1 - 0.05 / differences.shape[1]) for values in differences.T]


def verdict(records: Mapping[str, Records]) -> Verdict:
    """On ``CLAIM``, at the last level; undecided where the arm was not run, or a seed has no pair there."""
    nothing = Estimate(math.nan, math.nan, math.nan, 0.95, 0, 0, 0, "", CLAIM.unit, math.nan)
    if "toy" not in records:
        return replace(decide(CLAIM, nothing), reason=ASIDE)
    columns = records["toy"][STAGE]
    found, level = models(columns), SIZES[str(columns["size"][0])].levels[-1]
    pair = next(iter(PAIRS.values()))
    if not paired(found, pair, level):
        return decide(CLAIM, nothing)
    return decide(CLAIM, replace(overall(difference(found, pair, level, PRIMARY)), unit=CLAIM.unit))


def section(records: Mapping[str, Records]) -> Section:
    """What training showed, or how it is run."""
    if "toy" not in records:
        return Section(TITLE, (ASIDE,))
    columns = records["toy"][STAGE]
    size, found = SIZES[str(columns["size"][0])], models(columns)
    text = (_setting(columns, size), _equal(found, size), _says(found, size))
    return Section(TITLE, text, _grid(found, size), _chart(found, size))


def _setting(columns: Columns, size: Size) -> str:
    shape, training = size.shape, size.training
    return (
        f"A toy of {columns['parameters'][0]:,} parameters, not GPT-2: {shape.blocks} blocks of width {shape.width} in "
        f"GPT-2's style, of bytes, windows of {shape.window}, batches of {training.batch} windows, learning rate "
        f"{training.rate:g}, constant after {training.warmup} steps. {size.seeds} seeds: models of one seed see the "
        "same batches, and those that differ in decay alone start equal. Scaled, as all are but the unscaled: maps "
        f"that write into the stream start divided by sqrt({2 * shape.blocks}). Read on "
        f"{np.nanmin(columns['positions']):,.0f} positions or more of texts that confirm, from {FIRST} on in each "
        f"window, without attention sinks (at most {100 * np.nanmax(columns['sinks']):.1f} % of them): the cosine of "
        "the stream at successive layers; log(1 − cosine) of the same without each layer's mean over positions (the "
        "stream divided by its root mean square), which has no ceiling; and how often a layer's read-out has the same "
        "first choice as the model. All are means over layers without the first, the embedding, which is in the "
        "figure."
    )


def _equal(found: Models, size: Size) -> str:
    """How losses were made equal, and which models did not come to them."""
    lost = [
        f"{recipe.name}, seed {seed}, {level:g}"
        for level in size.levels
        for recipe in RECIPES
        for seed in sorted({*size.numbers} - {*reached(found, recipe.name, level)})
    ]
    left = (
        f"Models that did not come to a level are undefined there and left out with their pair: {'; '.join(lost)}. "
        if lost
        else ""
    )
    gaps = [columns["apart"][0] for columns in found.values() if not math.isnan(columns["apart"][0])]
    return (
        f"A model's loss on other texts is looked at every {size.look} steps, of {size.training.steps:,} at most. It "
        f"is compared at {' and at '.join(f'{level:g}' for level in size.levels)} nats a byte: what is read at the two "
        "looks between which its loss first falls below that is taken to it, linearly in the loss. The two looks are "
        f"{max(gaps):.3f} nats a byte apart or less. {left}Differences are of the changes from each model's own start, "
        "paired by seed; intervals are t over seeds, for these texts, and not corrected for their number."
    )


def _says(found: Models, size: Size) -> str:
    """The primary number in a sentence, and what decay did to the weights."""
    level, pair = size.levels[-1], next(iter(PAIRS.values()))
    seeds = paired(found, pair, level)
    if not seeds:
        return f"No pair of {' and '.join(pair)} came to {level:g}: nothing can be said."
    estimate, cosine = (overall(difference(found, pair, level, name)) for name in (PRIMARY, "centred"))
    if math.isnan(estimate.low):
        word = "has too few seeds for an interval"
    elif estimate.low <= 0 <= estimate.high:
        word = "is not told from no difference"
    else:
        word = "made the stream change " + ("more" if estimate.high < 0 else "less") + " gradually with depth"
    one, other = (np.mean([found[recipe, seed, level]["matrices"][0] for seed in seeds]) for recipe in pair)
    return (
        f"{pair[0].capitalize()} against {pair[1]} at {level:g} nats a byte {word}: {shown(estimate)} in log(1 − "
        f"cosine), which is {shown(cosine)} in that cosine. The matrices that decay acts on have a root mean square of "
        f"{one:.3f} against {other:.3f}."
    )


def _grid(found: Models, size: Size) -> Grid:
    """Every recipe from its start to the last level, then the differences of changes at each level, last first."""
    rows = [_recipe(found, recipe.name, size.levels[-1]) for recipe in RECIPES]
    rows += [_pair(found, pair, level) for level in reversed(size.levels) for pair in PAIRS.items()]
    return Grid(("models", "seeds", "steps", "nats a byte", *MEASURES.values()), tuple(rows))


def _recipe(found: Models, recipe: str, level: float) -> tuple[str, ...]:
    """Means over seeds: the measures at the start and at a level."""
    seeds = reached(found, recipe, level)
    if not seeds:
        return (recipe, "0", *("–" for _ in range(2 + len(MEASURES))))
    ends = [
        [np.mean([found[recipe, seed, at][name][1:].mean() for seed in seeds]) for at in (START, level)]
        for name in MEASURES
    ]
    steps, loss = (np.mean([found[recipe, seed, level][name][0] for seed in seeds]) for name in ("step", "confirm"))
    return (
        f"{recipe}, start to {level:g}",
        str(len(seeds)),
        f"{steps:.0f}",
        f"{loss:.3f}",
        *(f"{start:.3f} to {end:.3f}" for start, end in ends),
    )


def _pair(found: Models, named: tuple[str, tuple[str, str]], level: float) -> tuple[str, ...]:
    """Differences with intervals: of steps and loss as they are, of measures as changes from the start."""
    name, pair = f"{named[0]}, at {level:g}", named[1]
    seeds = paired(found, pair, level)
    if not seeds:
        return (name, "0", *("–" for _ in range(2 + len(MEASURES))))
    steps, loss = (
        [found[pair[0], seed, level][column][0] - found[pair[1], seed, level][column][0] for seed in seeds]
        for column in ("step", "confirm")
    )
    return (
        name,
        str(len(seeds)),
        f"{np.mean(steps):+.0f}",
        shown(runs(loss, unit="nats a byte"), 3),
        *(shown(overall(difference(found, pair, level, measure)), 3) for measure in MEASURES),
    )


def _chart(found: Models, size: Size) -> Chart | None:
    level = size.levels[-1]
    lines = [
        _line(name, difference(found, pair, level, PRIMARY))
        for name, pair in PAIRS.items()
        if paired(found, pair, level)
    ]
    if not lines:
        return None
    return Chart(
        name="decay_by_layer",
        title="What decay and the scale of the first writes do to the step from each layer to the next",
        x="layer before the step",
        y="difference of changes, log(1 − cosine)",
        lines=tuple(lines),
        caption=f"Below 0 the first of the two changes more gradually there. At {level:g} nats a byte; intervals hold "
        "for all layers of a curve at once (t over seeds, Bonferroni).",
    )


def _line(name: str, differences: Array) -> Line:
    made = by_layer(differences)
    value, low, high = (tuple(getattr(one, part) for one in made) for part in ("value", "low", "high"))
    role = "main" if "decay" in name else "control"
    return Line(name, tuple(map(float, range(len(made)))), value, low, high, role)


ARM = Arm(needs=NEEDS, stages=(Stage(STAGE, units, measure),), check=check, cost=cost)
"""The arm ``toy`` of the study."""
