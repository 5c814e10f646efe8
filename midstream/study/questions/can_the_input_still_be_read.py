"""Can the token that was read still be read from the stream, layer by layer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from midstream.study.fitting import FIT, TOKENS, lenses
from midstream.study.recovery import findings, measure
from midstream.study.recovery.analysis import R2, SHARE, Panel
from midstream.study.recovery.plan import CONFIRM, FIRST, KINDS, OWN, SIZES, Cell
from midstream.study.report import LinedUp, Report
from midstream.study.study import Arm, Ground, Records, Study, about_model, about_sets
from midstream.study.verdict import Claim, Verdict, decide

STILL = Claim(
    name="still read",
    says="At the last layer the token read can still be told, better than the tokens before it tell it.",
    estimand="share of tokens whose row is the nearest to the last layer's linear prediction, less the "
    "share that the most frequent successor of the two tokens before gets right",
    unit=SHARE,
    side="above",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.08,
)

FADES = Claim(
    name="fades",
    says="It is found less often at the last layer than at a quarter of the depth.",
    estimand="share found by the last layer's own map, less that by the map at a quarter of the depth",
    unit=SHARE,
    side="below",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.08,
)

EARLY = Claim(
    name="one map for all loses early",
    says="At an eighth of the depth one map for all layers loses more than in the middle half.",
    estimand="(share found by the layer's own map − by one for all), at an eighth of the depth less the "
    "mean over the middle half; at layer 0, where the stream is the row, an own map cannot but find it",
    unit=SHARE,
    side="above",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.08,
)

LATE = Claim(
    name="one map for all loses late",
    says="At the last layer one map for all layers loses more than in the middle half.",
    estimand="the same, at the last layer",
    unit=SHARE,
    side="above",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.06,
)

RARER = Claim(
    name="rarer tokens are kept better",
    says="At the last layer rare tokens are kept better than frequent ones with rows as long and as "
    "alone, more so than a reader of equal R² that sees only the row and noise would have it.",
    estimand="R² of the last layer's map for the rare third of the places less for the frequent third, "
    "matched by distance to the nearest row and norm; less the same of rows and noise with the same R² at the same "
    "places",
    unit=R2,
    side="above",
    threshold=0.0,
    matters=0.1,
    least=0.1,
    spread=0.18,
)

PREDICTION = (
    "Written on 2026-11-30, before any run on works that confirm. A prototype on other text had found the token read "
    "at 97, 82, 69, 66, 52, 46 % of positions at layers 2, 8, 14, 20, 27, 30 of the default model; a pilot of quick "
    "size on reserve works, its maps fitted on 15,000 tokens, at 87, 72, 60, 58, 38 % at layers 4, 8, 15, 22, 30. "
    "So: still read is supported, by 20 to 30 points, and fades too. One map for all was expected to lose most at "
    "both ends; in the pilot it lost most early and least at the last layer (-0.20), whose stream is the largest and "
    "has most weight in the common fit: early supported, late refuted. Rarer tokens were thought to be kept better "
    "late; the pilot says worse by R²: refuted. A map that has not seen a token's type finds it much less often: it "
    "is in part a list. In a model of random weights accuracy falls with depth as well, by dilution alone."
)

LINED_UP = (
    LinedUp(
        "Tuned lens (Belrose et al. 2023)",
        "In BLOOM and OPT-125M the logit lens's first choice is the input token in more than half of the layers.",
        "",
        "Theirs reads what the output would say, without a fit; here a map is fitted to find the input, which is "
        "there long after it has stopped being the first choice.",
    ),
    LinedUp(
        "Token erasure (Feucht et al. 2024)",
        "In Llama-2-7b linear probes lose the current and earlier tokens in early layers where a word or name of "
        "several tokens ends.",
        "",
        "Theirs classifies among tokens at the last token of an entity; here all positions are pooled, by kind of "
        "token.",
    ),
    LinedUp(
        "Language models are injective (Nikolaou et al. 2025)",
        "No two prompts of billions share a last hidden state; the prompt can be recovered exactly by search.",
        "",
        "That a search among all inputs succeeds says that the state is unique, not that it can be read: here one "
        "linear map must do.",
    ),
)


def analyse(ground: Ground, records: Mapping[str, Records]) -> Report:
    """The report, from the records of the main arm."""
    panel = Panel.of(ground, records["main"])
    verdicts = (
        decide(STILL, panel.still()),
        decide(FADES, panel.fades()),
        decide(EARLY, panel.early()),
        decide(LATE, panel.late()),
        decide(RARER, panel.rarer()),
    )
    return Report(
        name=STUDY.name,
        question=STUDY.question,
        prediction=STUDY.prediction,
        answer=_answer(panel, verdicts),
        about=_about(ground, panel),
        verdicts=verdicts,
        sections=tuple(findings.sections(panel)),
        lined_up=_lined_up(panel),
        notes=NOTES,
    )


def _answer(panel: Panel, verdicts: tuple[Verdict, ...]) -> str:
    last, early = (panel.accuracy(Cell(OWN, 0, layer)) for layer in (panel.blocks, panel.at(0.1)))
    still = {
        "supported": "Yes: at the last layer a linear map still finds the token read",
        "refuted": "No: at the last layer a linear map finds the token read no better than the tokens "
        "before it tell it",
        "undecided": "Not decided: at the last layer a linear map finds the token read",
    }[verdicts[0].found]
    return (
        f"{still}, {findings.percent(last)} of the time, {findings.points(verdicts[0].estimate)} points over what "
        f"the tokens before it tell; at layer {panel.at(0.1)} it was {findings.percent(early)}."
    )


def _about(ground: Ground, panel: Panel) -> tuple[str, ...]:
    return (
        about_model(ground),
        f"{about_sets(ground)} Maps are fitted on up to {TOKENS[ground.size]:,} tokens; {len(panel.document):,} "
        f"positions are read, from {FIRST} on, attention sinks left out.",
        "The row of a token is its embedding as it enters layer 0. Maps are affine, by least squares, their ridge "
        "chosen on works apart; for the log-probabilities they are scaled and calibrated on those.",
    )


def _lined_up(panel: Panel) -> tuple[LinedUp, ...]:
    last = panel.blocks
    half = findings.at_layers(panel, [Cell(OWN, 0, panel.at(0.5)), Cell(OWN, 0, last)])
    back = findings.at_layers(panel, [Cell(OWN, 1, panel.at(share)) for share in (0.1, 0.5, 1.0)])
    ours = (f"The fitted map finds it {half}.", f"The token before the one read: {back}.", f"Read by one map: {half}.")
    return tuple(replace(one, ours=text) for one, text in zip(LINED_UP, ours, strict=True))


NOTES = (
    "That a map finds the token does not say that the model uses it; studies with edits do.",
    "A linear map is a lower bound: another reader could find more.",
    "A network of random weights keeps its input too, diluted by what its blocks add: that the input can be read is "
    "no achievement of training; how it fades, and what is kept longer, may be.",
    "Four refits without a quarter of the fit works each, at some layers and on a quarter of the documents, widen "
    "the verdicts; the tables hold the intervals over works alone.",
    "Least squares shrinks a prediction towards the mean row, the more the less it knows, which favours tokens whose "
    "rows lie near that mean: for the nearest row predictions are scaled away from their mean, by the factor that "
    "makes the lens's log-probabilities best on the fit's own texts. R² is of predictions as they are.",
)

STUDY = Study(
    name="can_the_input_still_be_read",
    question="A transformer must keep its input while it makes a guess at the next token out of it. How "
    "long can the input be read: is there a linear map from each layer, or one for all of them, that reconstructs "
    "the token read? (Proposed by nostalgebraist after interpreting GPT: the logit lens, 2020; our words.)",
    prediction=PREDICTION,
    claims=(STILL, FADES, EARLY, LATE, RARER),
    arms={
        "main": Arm(
            {size: {"fit": FIT[size], "confirm": CONFIRM[size]} for size in SIZES},
            measure.STAGES,
            measure.check,
            measure.cost,
            lenses(*KINDS),
        )
    },
    analyse=analyse,
    minutes={"quick": 1, "default": 8, "large": 60},
    revision=3,
)
