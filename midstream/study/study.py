"""What a study is: one question, declared before its run, with stages that measure and an analysis that decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstream.lens.lens import Lens
from midstream.model.model import Model
from midstream.record import Array
from midstream.study.report import Report
from midstream.study.verdict import Claim

Columns = Mapping[str, Array]
"""A table: name -> one entry a row; texts, or numbers in which NaN is undefined."""

Records = Mapping[str, Columns]
"""What stages have measured: stage -> the rows of all its units, in their order."""


@dataclass(frozen=True, eq=False)
class Text:
    """A document that a study reads.

    Attributes:
        number: order in the corpus.
        work: the cluster that it belongs to.
        ids: its first tokens, as many as the study reads.
    """

    number: int
    work: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Need:
    """What an arm reads of one set of documents.

    Attributes:
        documents: at most, as many of each work as of any other, as far as they go.
        tokens: the first ones of each.
        whole: a document with fewer tokens is left out.
    """

    documents: int
    tokens: int
    whole: bool = True


@dataclass(frozen=True)
class Lenses:
    """What an arm reads with: lenses fitted on the texts of ``fit`` alone, made once and kept in the lens folder.

    Attributes:
        kinds: as a user writes them.
        tokens: usable ones that are read for it, at most; about as many of each text as of any other.
        layers: number of blocks -> layers that get maps.
    """

    kinds: tuple[str, ...]
    tokens: int
    layers: Callable[[int], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Ground:
    """What a study stands on.

    Attributes:
        texts: ``fit``, ``tune``, ``confirm`` -> documents; no work is in two of them.
        size: ``quick``, ``default`` or ``large``; what that means is the study's own.
        seed: of every draw.
        lenses: kind -> what the arm asked for; there when it measures, not when its records are analysed.
        keep: what is made once and shared by units (fitted maps, plain passes); lives as long as the process.
    """

    model: Model
    texts: Mapping[str, Sequence[Text]]
    size: str
    seed: int
    lenses: Mapping[str, Lens] = field(default_factory=dict[str, Lens])
    keep: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Unit:
    """A piece of a stage's work, measured and kept whole; its name is that of its file."""

    name: str
    what: Any


@dataclass(frozen=True)
class Stage:
    """Part of an arm. Units are the same whenever they are asked for, so that a run goes on where it was stopped.

    Attributes:
        units: what is to be done, which may depend on what earlier stages have found.
        measure: one unit's rows.
    """

    name: str
    units: Callable[[Ground, Records], Sequence[Unit]]
    measure: Callable[[Ground, Unit], Columns]


@dataclass(frozen=True)
class Cost:
    """What an arm will take.

    Attributes:
        forwards: passes of one text through all blocks; one that starts half way counts half.
        tokens: that go through them, texts counted as often as they run.
        readouts: positions whose output is read.
        seconds: as predicted from a short trial on this machine.
    """

    forwards: float
    tokens: int
    readouts: int
    seconds: float


@dataclass(frozen=True)
class Arm:
    """A part of a study that is run on its own.

    Attributes:
        needs: size -> set -> what is read of it.
        stages: in order.
        check: raises RequestError for a model or text that it cannot be asked of.
        cost: before it runs; lenses are not counted.
        lenses: size -> what is read with.
    """

    needs: Mapping[str, Mapping[str, Need]]
    stages: tuple[Stage, ...]
    check: Callable[[Ground], None]
    cost: Callable[[Ground], Cost]
    lenses: Mapping[str, Lenses] = field(default_factory=dict[str, Lenses])


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes:
        name: of its file and folder.
        question: as it was asked, with its source.
        prediction: written before the first run.
        claims: what may be supported or refuted, the primary first; its number of works is that of ``confirm``.
        arms: ``main``, and others that are run on their own.
        analyse: the report, from the ground of ``main`` and the records of every arm that has run.
        minutes: of the main arm, about, by size, on two cores with the default model.
        revision: raised whenever what is measured changes, so that old records are not gone on with.
    """

    name: str
    question: str
    prediction: str
    claims: tuple[Claim, ...]
    arms: Mapping[str, Arm]
    analyse: Callable[[Ground, Mapping[str, Records]], Report]
    minutes: Mapping[str, float]
    revision: int = 1


def about_model(ground: Ground) -> str:
    """What a report says first: which model, how it was run, which token its texts begin with."""
    model = ground.model
    special = model.tokenizer.encode("a").kinds[0] == "special"
    first = "the tokenizer's own" if special else "of the text: none is added"
    return (
        f"{model.name}, {model.anatomy.layers} blocks of width {model.anatomy.width}, {model.dtype}, raw text "
        f"without a chat template; the first token is {first}. "
    ) + "; ".join(f"{name}: {value}" for name, value in model.fingerprint.circumstances.items())


def about_sets(ground: Ground) -> str:
    """How many documents of how many works each set has."""
    listed = "; ".join(
        f"{len(texts)} documents of {len({text.work for text in texts})} works to {name}"
        for name, texts in ground.texts.items()
    )
    return f"{listed}. No work is in two of these sets."
