"""What becomes of a token that the model had not expected?"""

from __future__ import annotations

from collections.abc import Mapping

from midstream.record import Estimate
from midstream.study.aftermath import analysis, findings, measure, stages
from midstream.study.aftermath.analysis import NATS, Weights
from midstream.study.aftermath.condition import READ, decided, layers
from midstream.study.aftermath.panel import OWN, Panel
from midstream.study.aftermath.repeats import repeats
from midstream.study.fitting import FIT, lenses
from midstream.study.report import LinedUp, Report, shown
from midstream.study.study import Arm, Ground, Need, Records, Study
from midstream.study.verdict import Claim, Verdict, decide

READS = Claim(
    name="read more",
    says="Later positions read the position of a token more where it came as a surprise than where the same token did "
    "not.",
    estimand="CE with the keys and values at i + 1 hidden from a third of the depth on less CE as it is, mean over the "
    "16 predictions at i + 2 to i + 17, where the token read at i + 1 was a top-decile surprise, less the same for "
    "matched tokens (same type, surprise below the median)",
    unit=NATS,
    side="above",
    threshold=0.0,
    matters=0.02,
)

CHANCE = Claim(
    name="more than by chance",
    says="It is read more in text, where the model can be wrong, than in its own samples, where a surprise is chance.",
    estimand="the number of the claim before, less the same number of the model's own samples",
    unit=NATS,
    side="above",
    threshold=0.0,
    matters=0.03,
)

COPY = Claim(
    name="written down",
    says="Where a token is read, the stream says how surprising it was, beyond what the token and the one before tell.",
    estimand="R² of the surprise at i, within works, read linearly from the token and the stream at i + 1, less that "
    "from the token alone (input row, type mean, bigram surprise); the layer is the best of the works that choose",
    unit="R²",
    side="above",
    threshold=findings.NOTICEABLE,
    matters=0.02,
)

BACK = Claim(
    name="comes back",
    says="A rare token that was badly missed is expected when it comes again.",
    estimand="log-probability of rare types at their second occurrence, of those above the median surprise at the "
    "first, less that of types of equal frequency that are new, in the same quarter of a text",
    unit="nats",
    side="above",
    threshold=0.0,
    matters=0.5,
)

PREDICTION = "…"

LINED_UP = (LinedUp("…", "…", "", "…"),)


def analyse(ground: Ground, records: Mapping[str, Records]) -> Report:
    """The report, from the records of the main arm and those of others that were run."""
    main = records["main"]
    verdicts = tuple(
        decide(claim, estimate) for claim, estimate in zip(STUDY.claims, _estimates(ground, main), strict=True)
    )
    sections = (
        findings.hidden(ground, main),
        findings.readable(ground, main),
        findings.excess(ground, main),
        *findings.plasma(ground, main),
        *findings.kept(ground, main),
    )
    return Report(
        name=STUDY.name,
        question=STUDY.question,
        prediction=STUDY.prediction,
        answer=_answer(verdicts),
        about=_about(ground),
        verdicts=verdicts,
        sections=sections,
        lined_up=LINED_UP,
        notes=NOTES,
    )


def _estimates(ground: Ground, main: Records) -> tuple[Estimate, ...]:
    """The number of each claim."""
    panel, own = Panel.of(ground, main, "confirm"), Panel.of(ground, main, OWN)
    start = decided(ground.model.anatomy.layers)
    sides = {one: Weights.of(one, one.hidden) for one in (panel, own)}
    values = {one: findings.costs(one, main, name, start, READ) for one, name in ((panel, "confirm"), (own, OWN))}
    halves = [analysis.halved(values[one], sides[one]) for one in (panel, own)]
    again = repeats(ground, panel)
    missed = Weights.again(panel, again.of(again.missed))
    return (
        analysis.arms(values[panel], sides[panel], panel.seed, NATS).difference,
        analysis.beyond(halves[0], halves[1], panel.works, panel.seed),
        analysis.gained(panel, analysis.best(Panel.of(ground, main, "tune"), layers(ground))),
        analysis.arms(-panel.surprise, missed, panel.seed, "nats").difference,
    )


def _answer(verdicts: tuple[Verdict, ...]) -> str:
    first = verdicts[0]
    return f"{first.found} {shown(first.estimate)}"


def _about(ground: Ground) -> tuple[str, ...]:
    return ("…",)


NOTES = ("…",)

_NEEDS = {
    "quick": {"fit": FIT["quick"], "tune": Need(8, 128), "confirm": Need(24, 128)},
    "default": {"fit": FIT["default"], "tune": Need(24, 256), "confirm": Need(120, 256)},
    "large": {"fit": FIT["large"], "tune": Need(96, 512), "confirm": Need(600, 512)},
}

STUDY = Study(
    name="what_happens_after_a_surprise",
    question="…",
    prediction=PREDICTION,
    claims=(READS, CHANCE, COPY, BACK),
    arms={
        "main": Arm(_NEEDS, stages.MAIN, measure.check, stages.cost, lenses("tuned", "input:0", "input:1")),
    },
    analyse=analyse,
    minutes={"quick": 2, "default": 12, "large": 400},
)
