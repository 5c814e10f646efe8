"""What weight decay did to the toys: changes from their own start at equal loss, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from midstream.band import runs
from midstream.record import Array, Estimate
from midstream.study.aftermath.continuity import FIRST
from midstream.study.aftermath.training import HIT, NEEDS, RECIPES, SIZES, START, Size, check, cost, measure, units
from midstream.study.report import Chart, Grid, Line, Section, shown
from midstream.study.study import Arm, Columns, Records, Stage

STAGE = "toy"

PREDICTION = (
    "Toy arm, written on 2026-11-30 before any state of a trained model was looked at (a seed that is not used had set "
    "rate, steps and levels by its loss alone): weight decay does not make the stream change gradually with depth. At "
    "equal loss decay 0.3 raises the cosine of successive layers, their means left out, by less than 0.02 over no "
    "decay, and the read-outs' agreement with the last layer by less than 0.05. Blocks read the stream through a norm, "
    "so shrinking all that is written, and the embeddings with it, changes no proportion; only writes that are of no "
    "use would vanish. The scale of the first writes moves the change from the start by less than 0.05."
)

PAIRS = {
    "decay 0.3 − 0": ("decay 0.3", "decay 0"),
    "decay 0.1 − 0": ("decay 0.1", "decay 0"),
    "scaled − unscaled": ("decay 0.1", "decay 0.1, unscaled"),
}
"""Which recipes are compared, the first less the second; the first pair is what the arm is about."""

PRIMARY = "centred"

MEASURES = {PRIMARY: "cosine without means", "cosine": "cosine", "agreement": "read-out agrees"}
"""Columns of the records, as the table calls them."""

TITLE = "Weight decay and how gradually the stream changes, in toys"

Models = Mapping[tuple[str, int, float], Columns]
"""Recipe, seed and level -> what was read of that model there, one row a layer."""


def models(columns: Columns) -> Models:
    """The records by model and level."""
    keys = zip(columns["recipe"].tolist(), columns["seed"].tolist(), columns["level"].tolist(), strict=True)
    rows: dict[tuple[str, int, float], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {key: {name: values[some] for name, values in columns.items()} for key, some in rows.items()}


def paired(found: Models, pair: tuple[str, str], level: float) -> list[int]:
    """Seeds of which models of both recipes were read at a level, at losses no further than 2 ``HIT`` apart."""
    seeds = {seed for _, seed, _ in found}
    keys = {seed: [(recipe, seed, level) for recipe in pair] for seed in sorted(seeds)}
    return [
        seed
        for seed, both in keys.items()
        if all(key in found for key in both) and abs(np.subtract(*(found[key]["tune"][0] for key in both))) <= 2 * HIT
    ]


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


def section(records: Mapping[str, Records]) -> Section:
    """What training showed, or how it is run."""
    if "toy" not in records:
        text = "Not run here. midstream study what_happens_after_a_surprise --arm toy trains small models to see."
        return Section(TITLE, (text,))
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
        f"that write into the stream start divided by sqrt({2 * shape.blocks}). Read on {columns['positions'].min():,} "
        f"positions or more of texts that confirm, from {FIRST} on in each window, without attention sinks (at most "
        f"{100 * columns['sinks'].max():.1f} % of them): the cosine of the stream at successive layers, as it is and "
        "without each layer's mean over positions (the stream divided by its root mean square), and how often a "
        "layer's read-out has the same first choice as the model. All are means over layers without the first, the "
        "embedding, which is in the figure."
    )


def _equal(found: Models, size: Size) -> str:
    """How losses were made equal, and which pairs are left out."""
    lost = [
        f"seed {seed} of {name} at {level:g}"
        for level in size.levels
        for name, pair in PAIRS.items()
        for seed in sorted(set(range(size.seeds)) - set(paired(found, pair, level)))
    ]
    left = f"Left out, one of its models having come to no such look: {'; '.join(lost)}. " if lost else ""
    return (
        f"Each model is read when a look first finds its loss on other texts within {HIT:g} of "
        f"{' and of '.join(f'{level:g}' for level in size.levels)} nats a byte, in {size.training.steps:,} steps or "
        f"fewer: two that are compared are no further apart than {2 * HIT:g}. {left}Differences are of the changes "
        "from each model's own start, paired by seed; intervals are t over seeds, for these texts, and not corrected "
        "for their number."
    )


def _says(found: Models, size: Size) -> str:
    """The primary number in a sentence, what room it had, and whether decay did anything to the weights."""
    level, pair = size.levels[-1], next(iter(PAIRS.values()))
    seeds = paired(found, pair, level)
    if not seeds:
        return f"No pair of {' and '.join(pair)} was read at {level:g}: nothing can be said."
    estimate = overall(difference(found, pair, level, PRIMARY))
    if np.isnan(estimate.low):
        word = "has too few seeds for an interval"
    elif estimate.low <= 0 <= estimate.high:
        word = "is not told from no difference"
    else:
        word = "made the stream change " + ("more" if estimate.low > 0 else "less") + " gradually with depth"
    one, other = (np.mean([found[recipe, seed, level]["matrices"][0] for seed in seeds]) for recipe in pair)
    reached = np.mean([found[pair[1], seed, level][PRIMARY][1:].mean() for seed in seeds])
    return (
        f"{pair[0].capitalize()} against {pair[1]} at {level:g} nats a byte {word}: {shown(estimate)} in the cosine "
        f"without means. That of {pair[1]} itself is {reached:.3f} there, so no more than {1 - reached:.3f} could have "
        f"been gained on it. That decay reached the weights shows in the root mean square of the matrices, {one:.3f} "
        f"against {other:.3f}."
    )


def _grid(found: Models, size: Size) -> Grid:
    """Every recipe from its start to the last level, then the differences of changes at each level, last first."""
    rows = [_recipe(found, recipe.name, size.levels[-1]) for recipe in RECIPES]
    rows += [_pair(found, pair, level) for level in reversed(size.levels) for pair in PAIRS.items()]
    return Grid(("models", "seeds", "steps", "nats a byte", *MEASURES.values()), tuple(rows))


def _recipe(found: Models, recipe: str, level: float) -> tuple[str, ...]:
    """Means over seeds: the measures at the start and at a level."""
    seeds = sorted(seed for name, seed, at in found if (name, at) == (recipe, level))
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
        y="difference of changes in cosine, means out",
        lines=tuple(lines),
        caption=f"Above 0 the first of the two changes more gradually there. At {level:g} nats a byte; intervals hold "
        "for all layers of a curve at once (t over seeds, Bonferroni).",
    )


def _line(name: str, differences: Array) -> Line:
    made = by_layer(differences)
    value, low, high = (tuple(getattr(one, part) for one in made) for part in ("value", "low", "high"))
    role = "main" if "decay" in name else "control"
    return Line(name, tuple(map(float, range(len(made)))), value, low, high, role)


ARM = Arm(needs=NEEDS, stages=(Stage(STAGE, units, measure),), check=check, cost=cost)
"""The arm ``toy`` of the study."""
