"""From fitted maps to lenses that say where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from midstream.lens.fit.back_off import Counts, back_off
from midstream.lens.fit.beta import Factors, enough, fit_factors
from midstream.lens.fit.least_squares import Fitted
from midstream.lens.fit.sums import Calibration, Key
from midstream.lens.kind import Kind
from midstream.lens.lens import Lens, Transport
from midstream.readout.reader import Reader
from midstream.run.fit_pass import Lookout, usable
from midstream.run.fit_plan import BASELINES, Plan, target_of
from midstream.run.fit_refine import Refined, sample

LICENCE = (
    "The maps are numbers derived from the named model and text; whoever passes them on should check what the licences "
    "of both allow."
)
"""What a lens file says of its licence."""

VERSIONS = ("midstream", "torch", "numpy")


@dataclass
class Solved:
    """What least squares has given so far, group of layers by group.

    Attributes:
        maps: (key, target) -> map; shared: target -> one map for all layers, with held-out FVU by key.
        covariances: key -> ``[d_in, d_in]`` float64 covariance of its input.
        positions, left_out: key -> positions used, and beyond the norm limits, on the fit documents.
        limits: key -> largest norm that counted.
        counts: target -> what a back-off table is made of.
        calibration: shifts and limits of all keys.
    """

    maps: dict[tuple[Key, str], Fitted] = field(default_factory=dict[tuple[Key, str], Fitted])
    shared: dict[str, tuple[Fitted, dict[Key, float]]] = field(
        default_factory=dict[str, tuple[Fitted, dict[Key, float]]]
    )
    covariances: dict[Key, Tensor] = field(default_factory=dict[Key, Tensor])
    positions: dict[Key, int] = field(default_factory=dict[Key, int])
    left_out: dict[Key, int] = field(default_factory=dict[Key, int])
    counts: dict[str, Counts] = field(default_factory=dict[str, Counts])
    calibration: Calibration | None = None


def keys_of(plan: Plan, kind: Kind, last: int) -> list[Key]:
    """The inputs that a kind's lens and its baselines have maps of; ``last``: the model's layer L.

    At layer L the output lenses about the next token are the identity by definition.
    """
    whole = kind.name in ("shortcut", "tuned") and plan.options.site == "resid_post"
    found: list[Key] = [("stream", layer) for layer in plan.layers if not (whole and layer == last)]
    baselines: list[Key] = [(source, 0) for source in BASELINES]
    return found + (baselines if kind.name in ("future", "input") else [])


def starts(plan: Plan, kind: Kind, solved: Solved, last: int) -> dict[Key, Transport]:
    """The least-squares maps of a kind, by key."""
    target = target_of(kind)
    assert target is not None
    if kind.shared:
        one = solved.shared[target][0].transport
        return {
            key: one if key[0] == "stream" else solved.maps[key, target].transport for key in keys_of(plan, kind, last)
        }
    return {key: solved.maps[key, target].transport for key in keys_of(plan, kind, last)}


def assemble(
    lookout: Lookout,
    kind: Kind,
    maps: Mapping[Key, Transport],
    factors: Mapping[Key, Factors],
    about: Mapping[str, Any],
    counts: Counts | None,
) -> Lens:
    """The lens of a kind with its baselines, from maps by key and, for the input reader, their factors."""
    plan = lookout.plan
    betas = {key: one.beta for key, one in factors.items()}

    def lens(name: str, chosen: Mapping[Key, Transport], **more: Any) -> Lens:
        return Lens(
            name,
            kind.reader,
            kind.offset,
            {layer: move for (_, layer), move in chosen.items()},
            calibrated=kind.reader == "output" or all(betas[key] > 0 for key in chosen),
            kind=str(kind),
            betas={key[1]: betas[key] for key in chosen if betas.get(key, 0) > 0},
            **more,
        )

    baselines = tuple(
        lens(f"{kind}:{source}", {(source, 0): maps[source, 0]}, layers=(0,), source=source)
        for source in BASELINES
        if (source, 0) in maps
    )
    stream = {key: move for key, move in maps.items() if key[0] == "stream"}
    return lens(
        str(kind),
        stream,
        site=plan.options.site,
        layers=plan.layers,
        baselines=baselines,
        back_off=None if counts is None else back_off(counts),
        about=about,
    )


def fit_scores(
    lookout: Lookout, reader: Reader, kind: Kind, maps: Mapping[Key, Transport], advance: Callable[[int], None]
) -> dict[Key, Factors]:
    """Factor of the input reader's scores and scale of each map, on held-out text; a shared map keeps its scale."""
    chosen = sample(lookout, held=True, wanted=enough(len(reader.weight)))
    rows: dict[Key, list[Tensor]] = {key: [] for key in maps}
    answers: list[Tensor] = []
    keys = list(maps)
    for unit in chosen.units:
        seen = lookout.passage(unit, lookout.places(keys))
        at = usable(lookout.plan, seen)[:: chosen.stride]
        for key, x in lookout.rows(seen, at, keys, []).x.items():
            rows[key].append(x.float().cpu())
        answers.append(seen.ids[at - kind.number])
    # mixed, so that the first of them are of all documents
    order = torch.randperm(sum(map(len, answers)), generator=torch.Generator().manual_seed(lookout.plan.options.seed))
    order = order[: chosen.most]
    answer = torch.cat(answers)[order]
    found: dict[Key, Factors] = {}
    for key, move in maps.items():
        own = not (kind.shared and key[0] == "stream")
        found[key] = fit_factors(reader, move(torch.cat(rows[key])[order]), answer, scaled=own)
        advance(1)
    return found


def scaled(maps: Mapping[Key, Transport], factors: Mapping[Key, Factors]) -> dict[Key, Transport]:
    """The maps with their scales in them."""
    return {
        key: factors[key].applied(move) if key in factors and factors[key].scale != 1 else move
        for key, move in maps.items()
    }


def scales(factors: Mapping[Key, Factors]) -> dict[str, Any]:
    """What ``fit_numbers`` lacks of an input lens: the scale in each of its maps, of which FVU knows nothing."""
    return {"scale": {_name(key): one.scale for key, one in factors.items()}} if factors else {}


def fit_numbers(plan: Plan, kind: Kind, solved: Solved, keys: Sequence[Key], refined: Refined | None) -> dict[str, Any]:
    """What a lens says of its fit, by layer; ``about["fit"]``."""
    target = target_of(kind)
    if target is None:
        return {"tokens": plan.options.tokens, "site": plan.options.site}
    fitted = {key: solved.maps[key, target] for key in keys if (key, target) in solved.maps}
    numbers: dict[str, Any] = {
        "tokens": plan.options.tokens,
        "site": plan.options.site,
        "target": target,
        "positions": {_name(key): solved.positions[key] for key in keys},
        "left_out": {_name(key): solved.left_out[key] for key in keys},
        "ridge": {_name(key): one.ridge for key, one in fitted.items()},
        "fvu_fit": {_name(key): one.fvu_fit for key, one in fitted.items()},
        "fvu_held": {_name(key): one.fvu_held for key, one in fitted.items()},
    }
    if kind.shared:
        one, by_key = solved.shared[target]
        stream = [key for key in keys if key[0] == "stream"]
        numbers["ridge"] |= dict.fromkeys(map(_name, stream), one.ridge)
        numbers["fvu_fit"] |= dict.fromkeys(map(_name, stream), one.fvu_fit)
        numbers["fvu_held"] |= {_name(key): by_key[key] for key in stream}
    if refined is not None:
        numbers["kl"] = {
            "positions": refined.positions,
            "held_positions": refined.held,
            "before": {_name(key): value for key, value in refined.before.items()},
            "after": {_name(key): value for key, value in refined.after.items()},
            "stopped": refined.stopped,
        }
    return numbers


def provenance(lookout: Lookout, base: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """``Lens.about``: model, corpus, seed, fit, versions, licence; ``base`` is what ``artifact.about`` says."""
    plan = lookout.plan
    return {
        **base,
        "corpus": plan.corpus,
        "documents": [document.sha256 for document in plan.documents if not document.held],
        "held_out_documents": [document.sha256 for document in plan.documents if document.held],
        "seed": plan.options.seed,
        "fit": dict(numbers),
        "scores": {},
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "licence": LICENCE,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _name(key: Key) -> str:
    return str(key[1]) if key[0] == "stream" else key[0]
