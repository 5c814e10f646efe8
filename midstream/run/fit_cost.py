"""What each stage of a fit costs in operations: enough to say how much is left."""

from __future__ import annotations

from midstream.lens.fit.beta import enough
from midstream.lens.fit.jacobian import LENGTH
from midstream.model.model import Model
from midstream.run.fit_plan import BASELINES, HELD_OUT_SHARES, Plan
from midstream.run.fit_refine import CHECKS, HELD_SHARE, SAMPLE, planned
from midstream.run.score import ScoreOptions

PASSES = 5
"""Backward passes of a Jacobian fit, in units of the width d."""

_SLOW = 4
"""Operations in float64, and those on vectors, take about this many times as long as products in float32."""


def costs(model: Model, plan: Plan, groups: int) -> dict[str, float]:
    """Stage -> operations, in the order in which the stages run; ``groups`` of layers take a pass each."""
    anatomy = model.anatomy
    width, table = anatomy.width, anatomy.width * anatomy.vocabulary
    blocks = sum(weight.numel() for block in anatomy.blocks for weight in block.parameters())
    mine = plan.mine()
    tokens = sum(unit.window.stop - unit.window.start for unit in mine)
    usable = sum(unit.usable for unit in mine)
    columns = width * len(plan.targets)
    rows = [width * BASELINES.get(key[0], 1) for key in plan.inputs()]
    ahead = any(kind.name == "future" for kind in plan.options.kinds)
    read = 2.0 * blocks * tokens * groups + sum(2.0 * usable * row * (row + columns) for row in rows)
    read += 2.0 * table * tokens * ahead
    found = {"calibrating": 2.0 * blocks * 4096}
    found |= dict.fromkeys(reading(groups), read / groups)
    if plan.options.part is not None:
        return found
    found["solving"] = _SLOW * sum(10.0 * row**3 + 4.0 * row * row * columns for row in rows)
    held = HELD_OUT_SHARES[0] * usable
    for kind in plan.options.kinds:
        maps = len(plan.layers) + (len(BASELINES) if kind.name != "tuned" else 0)
        if kind.name in SAMPLE:
            seen = planned(kind.name, round(usable - held), 4.0 * table * maps)
            looks = min(HELD_SHARE * SAMPLE[kind.name], held) * (CHECKS + 1)
            found[f"KL stage of {kind}"] = 2.0 * table * maps * (2 * seen + looks)
        if kind.name == "input":  # a product, and some ten looks at its scores
            found[f"calibrating {kind}"] = 2 * 2.0 * min(table * enough(anatomy.vocabulary), table * held) * maps
        if kind.name == "jacobian":  # a backward pass through the blocks is twice a forward one
            found["jacobian"] = 4.0 * blocks * LENGTH * PASSES * width
    lenses = sum(3 if kind.name == "future" else 1 for kind in plan.options.kinds)
    found["scoring"] = 2.0 * table * min(ScoreOptions().positions, held) * len(plan.layers) * lenses
    return found


def reading(groups: int) -> list[str]:
    """Names of the passes over the text."""
    return ["reading"] if groups == 1 else [f"reading, group {number + 1} of {groups}" for number in range(groups)]
