"""Does it help to overwrite late activations with the token that really came?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from midstream.study.anchoring import findings, measure, stages, toy
from midstream.study.anchoring.analysis import Best, Panel, best_of
from midstream.study.report import LinedUp, Report, shown
from midstream.study.study import Arm, Ground, Need, Records, Study, about_model, about_sets
from midstream.study.verdict import Claim, Verdict, decide

SURPRISE = Claim(
    name="after a surprise",
    says="Where the model was badly wrong, the true token's anchor gains more on a random token's, in the tokens that "
    "follow, than where it was right.",
    estimand="CE with the true token's anchor less CE with a random token's of equal angle, on the 16 tokens after a "
    "top-decile surprise, less the same after matched tokens (same type, surprise below the median); "
    "condition chosen for it",
    unit="nats a token",
    side="below",
    threshold=0.0,
    matters=0.02,
    spread=0.03,
)

HELPS = Claim(
    name="helps",
    says="Anchoring lowers the cross-entropy of the text as a whole.",
    estimand="CE(moved) − CE(plain) over all positions; condition chosen for it",
    unit="nats a token",
    side="below",
    threshold=0.0,
    matters=0.005,
    least=0.005,
    spread=0.008,
)

PREDICTION = (
    "Both claims are refuted. Written on 2026-11-30, before any run on works that confirm; a pilot on 64 works that "
    "only choose had shown the input row at half depth, strength 0.1, to cost 0.014 nats a token and the stream "
    "expected by least squares 0.004, neither differing from a random token of equal angle. So: no anchor of a model "
    "that was not trained with it saves 0.005 nats, and after a surprise the true token does no better than a random "
    "one by as much as 0.02. In the toy arm a model trained with the anchor is expected to end better than one trained "
    "with a control of equal cost, since a block that reads position i then also reads what came next."
)

LINED_UP = (
    LinedUp(
        "Feedback Transformer (Fan et al. 2020)",
        "Letting every layer attend to high-level states of earlier positions lowers perplexity, in small models most.",
        "",
        "There the memory holds what the model computed; here it holds the token that came. There the model is trained "
        "with it and loses parallel training; the doubled pass keeps that.",
    ),
    LinedUp(
        "XLNet, two-stream attention (Yang et al. 2019)",
        "A query stream that does not see the token and a content stream that does, trained together.",
        "",
        "The moved copy is a content stream, the predicting copy a query stream, up to layer l0 the same; XLNet keeps "
        "them apart from layer 0 and trains them to predict permuted orders.",
    ),
    LinedUp(
        "Attention sinks (Xiao et al. 2023)",
        "Losing the first positions' keys and values breaks a model that is otherwise untouched.",
        "",
        "The same positions, here moved and not lost: how much of an edit's cost is theirs is measured.",
    ),
)


def analyse(ground: Ground, records: Mapping[str, Records]) -> Report:
    """The report, from the records of the main arm and those of others that were run."""
    main = records["main"]
    panel = Panel.of(ground, main, "confirm", "confirm")
    best = best_of(ground, main)
    verdicts = (
        decide(SURPRISE, panel.gained(best.surprise, again=True).contrast),
        decide(HELPS, panel.whole(best.whole, again=True)),
    )
    sections = (
        *findings.confirmed(ground, main),
        findings.sinks(ground, main),
        *findings.chosen(ground, main),
        findings.generated(ground, main),
        findings.toy(records),
    )
    return Report(
        name=STUDY.name,
        question=STUDY.question,
        prediction=STUDY.prediction,
        answer=_answer(best, verdicts),
        about=_about(ground),
        verdicts=verdicts,
        sections=sections,
        lined_up=_lined_up(ground, main, verdicts),
        notes=NOTES,
    )


def _answer(best: Best, verdicts: tuple[Verdict, Verdict]) -> str:
    """The primary claim first, since the verdict beside it is its."""
    after, whole = verdicts
    then = {
        "supported": "After a surprise the true token's anchor gains more on a random token's than elsewhere",
        "refuted": "After a surprise the true token's anchor does not gain more on a random token's than "
        "elsewhere, not "
        f"by {SURPRISE.matters:g} nats a token",
        "undecided": "Whether after a surprise the true token's anchor gains more on a random token's "
        "than elsewhere is "
        "not decided",
    }[after.found]
    word = {
        "supported": "the text as a whole is predicted better",
        "refuted": f"the text as a whole is not predicted better by {HELPS.matters:g} nats a token",
        "undecided": "whether the text as a whole is predicted better is not decided",
    }[whole.found]
    first, second = shown(after.estimate), shown(whole.estimate)
    return f"{then}: {first} ({best.surprise.name}); and {word}: {second} ({best.whole.name})."


def _about(ground: Ground) -> tuple[str, ...]:
    return (
        about_model(ground),
        f"The first {len(ground.texts['confirm'][0].ids)} tokens of each document: {about_sets(ground)}",
        "The stream at position i is moved once, at resid_post, once the token at i + 1 is known; position i's own "
        "prediction is made before. Later positions see keys and values of the moved stream. Its length is kept.",
        f"Layers tried: {findings.places(ground)}. Vectors: the token's input row (embedding), its output row where "
        "that is another (unembedding), and what least squares expects the stream at that layer to be where this token "
        "is read (carried) or comes next (expected). Rules: every position, or only the top tenth of surprise.",
    )


def _lined_up(ground: Ground, main: Records, verdicts: tuple[Verdict, Verdict]) -> tuple[LinedUp, ...]:
    after, whole = (shown(verdict.estimate) for verdict in verdicts)
    grid = findings.sinks(ground, main).grid
    sink = "; ".join(f"{name}: {cost}" for name, cost in (() if grid is None else grid.rows) if name.startswith("true"))
    ours = (
        f"CE of the whole changes by {whole} nats a token, untrained.",
        f"After a surprise: {after} nats a token.",
        sink,
    )
    return tuple(replace(one, ours=text) for one, text in zip(LINED_UP, ours, strict=True))


NOTES = (
    "An edit that a model was not trained with tests how robust it is to it; only the toy arm tests the idea itself.",
    "Whether an effect is the token's or any displacement's is told by the controls of equal angle, not by its size.",
    "A claim is decided at the condition that was chosen for it; the tables show what other conditions did, undecided.",
    "The maps behind carried and expected are fitted to this model on other works; four refits without a "
    "quarter of those each, run on a quarter of the documents, widen only the verdicts and their rows.",
)

_NEEDS = {
    "quick": {"fit": Need(24, 64), "tune": Need(8, 64), "confirm": Need(12, 64)},
    "default": {"fit": Need(120, 128), "tune": Need(16, 128), "confirm": Need(96, 128)},
    "large": {"fit": Need(600, 256), "tune": Need(96, 256), "confirm": Need(480, 256)},
}

STUDY = Study(
    name="does_anchoring_help",
    question="Once the next token is known: does it help to overwrite the late activations behind it with its "
    "embedding, or to move them towards it, so that the model sees what really came even where it had guessed "
    "otherwise? (Proposed by nostalgebraist in the discussion of interpreting GPT: the logit lens, 2020; our words.)",
    prediction=PREDICTION,
    claims=(SURPRISE, HELPS),
    arms={"main": Arm(_NEEDS, stages.MAIN, measure.check, stages.cost), "toy": toy.ARM},
    analyse=analyse,
    minutes={"quick": 1, "default": 12, "large": 400},
)
