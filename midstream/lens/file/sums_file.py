"""What a pass over a text has gathered for a fit, and the file that keeps it to be added to others or gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.fit.back_off import Counts
from midstream.lens.fit.sums import Calibration, Key, Moments, Sums
from midstream.stream import container

CONTENT = "sums"
"""What such a file says it holds."""

ENDING = ".sums"
"""Of these files' names, so that a lens folder does not list them."""

_TENSORS = ("x", "xx", "y", "xy", "yy")


@dataclass(frozen=True)
class Gathered:
    """Sums over the fit and the held-out documents read so far.

    Attributes:
        plan: digest of the plan, which says what the units are: only sums of one plan add up.
        fit, held: over the documents of each side.
        counts: target -> what answers were seen after which tokens, on the fit documents.
        done: ``[units]`` int64 ascending: the units of the plan that are in the sums.
    """

    plan: str
    fit: Sums
    held: Sums
    counts: Mapping[str, Counts]
    done: Tensor

    def merged(self, other: Gathered) -> Gathered:
        """Both together. Raises RequestError for another plan, or where a unit is in both."""
        if self.plan != other.plan:
            raise RequestError(
                "these sums were made by another plan (other kinds, corpus, --tokens, --seed, --layers or model): "
                "give the command that made them, with --resume."
            )
        done, times = torch.cat([self.done, other.done]).unique(return_counts=True)
        if len(times) and int(times.max()) > 1:
            raise RequestError("two of these sums hold the same documents: name each file once.")
        counts = {target: mine.merged(other.counts[target]) for target, mine in self.counts.items()}
        return Gathered(self.plan, self.fit.merged(other.fit), self.held.merged(other.held), counts, done)


def save(gathered: Gathered, path: str | Path) -> None:
    """Writes the file whole or not at all. Raises RequestError when nothing can be written there."""
    tensors: dict[str, Tensor] = {"done": gathered.done}
    calibration = gathered.fit.calibration
    for key, shift in calibration.shifts.items():
        tensors[f"shift.{_text(key)}"] = shift
        tensors[f"limit.{_text(key)}"] = torch.tensor(calibration.limits[key], dtype=torch.float64)
    for name, shift in calibration.targets.items():
        tensors[f"target.{name}"] = shift
    tensors["last"] = torch.tensor(calibration.last, dtype=torch.float64)
    for side, sums in (("fit", gathered.fit), ("held", gathered.held)):
        sums.release()
        for key, moments in sums.moments.items():
            for name in _TENSORS:
                tensors[f"{side}.{_text(key)}.{name}"] = getattr(moments, name)
            tensors[f"{side}.{_text(key)}.count"] = torch.tensor([moments.count, moments.left_out])
    for target, counts in gathered.counts.items():
        tensors[f"codes.{target}"], tensors[f"times.{target}"] = counts.codes, counts.times
    text = {
        "content": CONTENT,
        "plan": gathered.plan,
        "label": gathered.fit.label,
        "keys": [_text(key) for key in calibration.shifts],
        "targets": list(calibration.targets),
        "counts": {target: counts.vocabulary for target, counts in gathered.counts.items()},
    }
    container.write(path, tensors, text)


def load(path: str | Path, expected: Sequence[Gathered]) -> tuple[int, Gathered]:
    """The sums in a file, and which of ``expected`` they are of: the one with the same keys.

    Of ``expected`` only the plan, label, shapes of the calibration and vocabulary matter; it need not have moments.

    Raises RequestError: no such file, damaged, no sums, of another plan, or sums that cannot be.
    """
    found = container.read(path)
    if found.text.get("content") != CONTENT:
        raise RequestError(f"{path} holds no sums: --resume takes the files that midstream fit named *{ENDING}.")
    named = [[_text(key) for key in one.fit.calibration.shifts] for one in expected]
    keys = found.text.get("keys")
    if found.text.get("plan") != expected[0].plan or keys not in named:
        raise RequestError(
            f"{path} holds sums of another plan (other kinds, corpus, --tokens, --seed, --layers, --site, --memory or "
            "model): give the options of the command that made it."
        )
    number = named.index(keys)
    shapes = {name: entry.shape for name, entry in found.entries.items()}
    for name, shape in _shapes(expected[number].fit.calibration).items():
        if tuple(shapes.get(name, (-1,))) != shape:
            raise _damaged(path, f"{name} is {shapes.get(name)}, expected {list(shape)}")
    tensors = found.tensors()
    if any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors.values()):
        raise _damaged(path, "it holds NaN")
    try:
        return number, _read(tensors, expected[number])
    except (KeyError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _read(tensors: Mapping[str, Tensor], expected: Gathered) -> Gathered:
    before = expected.fit.calibration
    calibration = Calibration(
        {key: tensors[f"shift.{_text(key)}"].clone() for key in before.shifts},
        {name: tensors[f"target.{name}"].clone() for name in before.targets},
        {key: float(tensors[f"limit.{_text(key)}"]) for key in before.shifts},
        float(tensors["last"]),
    )
    sides: list[Sums] = []
    for side in ("fit", "held"):
        moments: dict[Key, Moments] = {}
        for key in before.shifts:
            parts = {name: tensors[f"{side}.{_text(key)}.{name}"].clone() for name in _TENSORS}
            count, left_out = tensors[f"{side}.{_text(key)}.count"].tolist()
            if count < 0 or left_out < 0 or (parts["xx"].diagonal() < 0).any() or (parts["yy"] < 0).any():
                raise ValueError("it counts or squares below zero")
            moments[key] = Moments(**parts, count=count, left_out=left_out)
        sides.append(Sums(calibration, expected.fit.label, moments))
    counts: dict[str, Counts] = {}
    for target, mine in expected.counts.items():
        codes, times = tensors[f"codes.{target}"].clone(), tensors[f"times.{target}"].clone()
        ordered = codes.ndim == 1 and codes.shape == times.shape and bool((codes.diff() > 0).all())
        if not ordered or (len(codes) and (int(codes[0]) < 0 or int(codes[-1]) >= mine.vocabulary**3)):
            raise ValueError("its back-off counts are no counts")
        counts[target] = Counts(mine.vocabulary, codes, times)
    done = tensors["done"].clone()
    if done.ndim != 1 or bool((done.diff() <= 0).any()) or (len(done) and int(done[0]) < 0):
        raise ValueError("its list of documents is no list")
    return Gathered(expected.plan, sides[0], sides[1], counts, done)


def _shapes(calibration: Calibration) -> dict[str, tuple[int, ...]]:
    """Of every tensor whose shape is known before the file is read."""
    shapes: dict[str, tuple[int, ...]] = {"last": ()}
    targets = calibration.targets
    columns = sum(len(shift) for shift in targets.values())
    for key, shift in calibration.shifts.items():
        width = len(shift)
        shapes |= {f"shift.{_text(key)}": (width,), f"limit.{_text(key)}": ()}
        moments = ((width,), (width, width), (columns,), (width, columns), (len(targets),))
        for side in ("fit", "held"):
            shapes |= {f"{side}.{_text(key)}.{name}": shape for name, shape in zip(_TENSORS, moments, strict=True)}
            shapes[f"{side}.{_text(key)}.count"] = (2,)
    return shapes | {f"target.{name}": (len(shift),) for name, shift in targets.items()}


def _text(key: Key) -> str:
    return f"{key[0]}.{key[1]}"


def _damaged(path: str | Path, why: str) -> RequestError:
    return RequestError(f"{path} holds no usable sums: {why[:200]}. It may be damaged: make it again.")
