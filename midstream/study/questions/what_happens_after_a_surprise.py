"""What becomes of a token that the model had not expected?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from midstream.record import Estimate
from midstream.study.aftermath import analysis, findings, lens_findings, measure, probe, slopes, stages, toy
from midstream.study.aftermath.analysis import NATS
from midstream.study.aftermath.condition import FIRST, PROMPT, layers
from midstream.study.aftermath.panel import Panel
from midstream.study.aftermath.repeats import repeats
from midstream.study.fitting import FIT, lenses
from midstream.study.report import LinedUp, Report, shown
from midstream.study.study import Arm, Ground, Need, Records, Study, about_model, about_sets
from midstream.study.verdict import Claim, Verdict, decide

# Spreads are a pilot's, whose works had 576 tokens each, times √(576/666): works have so many at default size.

READS = Claim(
    name="read more",
    says="Later positions read the position of a token more, the more surprising the same token was there.",
    estimand="CE with the keys and values at i + 1 hidden from a third of the depth on less CE with those of a random "
    "near position hidden, mean over the 16 predictions at i + 2 to i + 17: its slope on the surprise of the token "
    "read at i + 1, over top-decile surprises and matched tokens (same type, surprise below the median), with levels "
    "of type, work and quarter of the text; times the mean distance in surprise of the two. s is, over the 16 "
    "together, a tenth of that distance",
    unit=NATS,
    side="above",
    threshold=0.0,
    matters=0.05,
    spread=0.091,
)

CHANCE = Claim(
    name="more than by chance",
    says="It is read more in text, where the model can be wrong, than in its own samples, where a surprise is chance.",
    estimand="the slope of the claim before, less the same slope in the model's own samples, times the same distance; "
    "s as before",
    unit=NATS,
    side="above",
    threshold=0.0,
    matters=0.05,
    spread=0.2,
)

COPY = Claim(
    name="written down",
    says="Where a token is read, the stream says how surprising it was, beyond the token, the one before and how "
    "unsure the guess was.",
    estimand="R² of the surprise at i, within works, read linearly from what is known without the stream (input row, "
    "type mean, bigram surprise, entropy of the guess at i) and the stream at i + 1, less that without it; the layer "
    "is the best of the works that choose. s is as much again as counts as readable",
    unit="R²",
    side="above",
    threshold=findings.NOTICEABLE,
    matters=0.02,
    spread=0.048,
)

BACK = Claim(
    name="comes back",
    says="The worse a rare token was missed at first, the more it gains when it comes again.",
    estimand="log-probability of rare types at their second occurrence less that of types of equal frequency and form "
    "that are new in the same quarter of a text: its slope on the surprise at the first occurrence, works with "
    "levels of their own. s is a tenth of what was missed",
    unit="nats a nat",
    side="above",
    threshold=0.0,
    matters=0.1,
    spread=0.52,
)

GONE = Claim(
    name="soon gone",
    says="From the 17th to the 32nd token after a surprise the loss is no higher than the text's is elsewhere.",
    estimand="cross-entropy 17 to 32 tokens after less that of the same text more than 32 tokens away: its slope on "
    "the surprise with levels of type, work and quarter of the text, times the distance of the first claim. s is, "
    "over the 16 tokens together, a tenth of that distance",
    unit=NATS,
    side="within",
    threshold=0.0,
    matters=0.05,
    spread=0.183,
)

PREDICTION = (
    "Written on 2026-11-30, before any run of default size, and again on the same day: a review had shown flaws "
    "after quick runs had read 16 documents of works that confirm. A second pilot, on 20 reserve works (three "
    "documents of 192 tokens each, none of them with WikiText's <unk>, 119 surprises with partners), had shown +0.07 "
    "nats (0.02 to 0.11) for the first claim, +0.03 (-0.01 to 0.06) for i + 1 less i, -0.03 (-0.14 to 0.05) for the "
    "second claim, an R² gain of 0.22 at half depth, -0.25 nats a nat (-0.54 to -0.02) for rare tokens that come "
    "back, and -0.03 nats (-0.12 to 0.06) of excess loss in the end. So: read more is supported, a token that could "
    "not be guessed being news; both places are read more for it, the one where it is read hardly more than the one "
    "that guessed it. More than by chance is not supported: what is read is the news, and a surprise that was mere "
    "chance is as much of it. Written down is supported, in the samples as much as in text, readable from the first "
    "third of the depth on, best in the middle, and less at the end, where the next guess takes the room. Comes back "
    "is refuted: rare tokens are likelier when they come again, but those that were missed worse less so. Soon gone "
    "is left undecided, since 30 works tell 0.1 nats and no less; the excess is some 0.5 nats at the first token "
    "after and not to be told from 0 within five. A model with random weights gives none of the first four: hiding a "
    "position costs the same whatever its surprise was, no layer gains 0.02, and a repeated token gains nothing."
)

LINED_UP = (
    LinedUp(
        "Stages of inference (Lad et al. 2024)",
        "Early layers turn tokens into features, middle ones work on them, late ones settle the prediction and drop "
        "what does not serve it; most single layers can be left out.",
        "",
        "There layers are deleted for all positions; here one position's keys and values are hidden from later ones, "
        "from a layer on, and its stream is read.",
    ),
    LinedUp(
        "Residual connections encourage iterative inference (Jastrzębski et al. 2018)",
        "Late blocks refine what is there: what they add lies along the loss's negative gradient, and is small.",
        "",
        "There image classifiers, whose loss is at the same place; here a token's own loss is one position before "
        "the place where the token is read, so what is refined at i + 1 is another prediction.",
    ),
    LinedUp(
        "In-context learning and induction heads (Olsson et al. 2022)",
        "Heads that find an earlier occurrence and copy what followed make a repeated token likely; loss late in a "
        "text is lower than early on.",
        "",
        "There repeated random sequences and whole texts; here rare tokens of ordinary text, against tokens as rare "
        "in the same part of a text, by how badly they were missed at first.",
    ),
)


def analyse(ground: Ground, records: Mapping[str, Records]) -> Report:
    """The report, from the records of the main arm and those of others that were run."""
    main = records["main"]
    read = findings.Hidden.of(ground, main)
    pairs = zip((READS, CHANCE, COPY, BACK, GONE), _estimates(ground, main, read), strict=True)
    verdicts = tuple(decide(claim, estimate) for claim, estimate in pairs)
    sections = (
        findings.hidden(ground, main, read),
        findings.readable(ground, main),
        findings.excess(ground, main, GONE.matters),
        *lens_findings.plasma(ground, main),
        *lens_findings.kept(ground, main),
        toy.section(records),
    )
    return Report(
        name=STUDY.name,
        question=STUDY.question,
        prediction=STUDY.prediction,
        answer=_answer(verdicts, read),
        about=_about(ground),
        verdicts=(*verdicts, toy.verdict(records)),
        sections=sections,
        lined_up=_lined_up(ground, main, verdicts),
        notes=NOTES,
    )


def _estimates(ground: Ground, main: Records, read: findings.Hidden) -> tuple[Estimate, ...]:
    """The number of each claim."""
    panel = Panel.of(ground, main, "confirm")
    return (
        read.read,
        read.beyond,
        analysis.gained(panel, analysis.best(Panel.of(ground, main, "tune"), layers(ground))),
        slopes.returned(panel, repeats(ground, panel)),
        slopes.excess(panel, [findings.WINDOWS[-1]], slopes.distance(panel))[0],
    )


def _answer(verdicts: tuple[Verdict, ...], read: findings.Hidden) -> str:
    """The primary claim first, since the verdict beside it is its, and whether its null shows the same."""
    reads, chance, copy, back, gone = verdicts
    more = {
        "supported": "Later positions read a token's position more the more surprising the token was",
        "refuted": f"Later positions do not read a token's position more, by {READS.matters:g} nats a token, "
        "where it was a surprise",
        "undecided": "Whether later positions read a token's position more where it was a surprise is not decided",
    }[reads.found]
    place = (
        "more than" if read.place.low > 0 else "less than" if read.place.high < 0 else "not to be told from what it is"
    )
    null = {
        "supported": "The model's own samples, where a surprise is mere chance, show less of it",
        "refuted": f"Text does not show it more, by {CHANCE.matters:g} nats, than the model's own samples, where a "
        "surprise is mere chance",
        "undecided": "Whether the model's own samples, where a surprise is mere chance, show as much of it is not "
        "decided",
    }[chance.found]
    written = {
        "supported": "The stream there says how surprising it was",
        "refuted": "The stream there does not say how surprising it was",
        "undecided": "Whether the stream there says how surprising it was is not decided",
    }[copy.found]
    level = {
        "supported": "17 to 32 tokens later the loss is at the text's level",
        "refuted": "17 to 32 tokens later the loss is not at the text's level",
        "undecided": "whether the loss is at the text's level 17 to 32 tokens later is not decided",
    }[gone.found]
    again = {
        "supported": "a rare token gains more at its second occurrence the worse it was missed at the first",
        "refuted": "a rare token gains no more at its second occurrence where it was missed worse at the first",
        "undecided": "whether a rare token gains more at its second occurrence the worse it was missed is not decided",
    }[back.found]
    return (
        f"{more}: {shown(reads.estimate)} nats a token, {place} at the position that guessed it wrongly (difference "
        f"{shown(read.place)}). {null} (difference {shown(chance.estimate)}). {written} (R² gain "
        f"{shown(copy.estimate, 3)}); {level} (excess {shown(gone.estimate)}); and {again} "
        f"({shown(back.estimate, 3)} nats a nat)."
    )


def _about(ground: Ground) -> tuple[str, ...]:
    confirm, mapped, tokens = ground.texts["confirm"], len(probe.cut(ground)), probe.tokens(ground)
    return (
        about_model(ground),
        f"The first {len(confirm[0].ids)} tokens of each document to tune and confirm: {about_sets(ground)} {mapped} "
        f"of the documents to fit, {tokens} tokens each, are for the maps to the surprise, all for lenses and "
        "counts.",
        "Position i predicts the next token; its surprise is −log p of the one that came, which is read at position "
        "i + 1. A token is held against the same token where it was no surprise.",
        f"Null: the model's own samples, temperature 1, which continue the first {PROMPT} tokens of each document to "
        "its length. There a surprise is a draw of the model's own distribution: nothing was wrong that could be "
        f"mended. They count for the work of the document. The first {FIRST} positions of any text are in no number, "
        "nor are attention sinks and special tokens.",
    )


def _lined_up(ground: Ground, main: Records, verdicts: tuple[Verdict, ...]) -> tuple[LinedUp, ...]:
    reads, _, copy, back, _ = (shown(verdict.estimate) for verdict in verdicts)
    places, panel = layers(ground), Panel.of(ground, main, "confirm")
    first = findings.first_readable(places, analysis.gains(panel, places))
    ours = (
        f"The surprise is readable from layer {'none' if first is None else first} on (best gain {copy}). Hidden "
        f"from a third of the depth on, the position that read it costs {reads} nats a token more the more "
        "surprising it was.",
        lens_findings.late_writes(ground, main),
        f"For each nat by which a rare token was missed at first, it gains {back} nats more the second time.",
    )
    return tuple(replace(one, ours=text) for one, text in zip(LINED_UP, ours, strict=True))


NOTES = (
    "What is read at a position is told by what is lost when it is hidden, not by attention mass. Hidden means the "
    "mean position's keys and values from a layer on; what earlier blocks have carried away from there is not taken "
    "back.",
    "A surprise within a type is no experiment: where a token surprises, the passage differs too. The model's own "
    "samples share that, but for the model being wrong.",
    "That a linear map reads the surprise does not say that the model uses it.",
    "Only surprises whose type also came unsurprising are counted where positions are hidden or read through lenses: "
    "frequent types, more than rare ones.",
    "What is hard about a rare type beside its frequency is hard each time it comes: that alone makes “comes back” "
    "negative.",
)

_NEEDS = {
    "quick": {"fit": FIT["quick"], "tune": Need(8, 128), "confirm": Need(16, 128)},
    "default": {"fit": FIT["default"], "tune": Need(24, 208), "confirm": Need(96, 208)},
    "large": {"fit": FIT["large"], "tune": Need(96, 512), "confirm": Need(600, 512)},
}

STUDY = Study(
    name="what_happens_after_a_surprise",
    question="A model must keep the token it has read and make the one that comes next: what happens where the token "
    "that came is not the one it had guessed? Does it copy the token when it got it wrong, do later positions read "
    "the place where it guessed or the place where it saw, and does a word that took it by surprise (“plasma”) come "
    "back? (The tradeoff and the scenario are nostalgebraist's and his readers', interpreting GPT: the logit lens, "
    "2020; our words.)",
    prediction=f"{PREDICTION} {toy.PREDICTION}",
    claims=(READS, CHANCE, COPY, BACK, GONE, toy.CLAIM),
    arms={
        "main": Arm(_NEEDS, stages.MAIN, measure.check, stages.cost, lenses("tuned", "input:0", "input:1")),
        "toy": toy.ARM,
    },
    analyse=analyse,
    minutes={"quick": 2, "default": 12, "large": 400},
    revision=2,
)
