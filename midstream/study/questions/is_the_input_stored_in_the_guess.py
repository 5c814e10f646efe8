"""Is the input recoverable because the guess implies it, or because it lies beside the guess?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from midstream.study import fitting
from midstream.study.guess import findings, stages
from midstream.study.guess.analysis import Panel, bounded
from midstream.study.guess.cut import Cut, cuts
from midstream.study.guess.outcome import SAYS, outcome
from midstream.study.guess.setting import PRIMARY
from midstream.study.report import LinedUp, Report, shown
from midstream.study.study import Arm, Ground, Need, Records, Study, about_model, about_sets
from midstream.study.verdict import Claim, Verdict, decide

# Spreads, from a pilot on works that only choose: that of works, and of what stays however many there are (refits,
# cuts, chance), as it would be for 30 works if all of it were theirs.
THROUGH = Claim(
    name="more than a blind part",
    says="At three quarters of the depth, the part of the stream that the guess needs tells more of the input than a "
    "part of equal size chosen blindly. That the input is told through the guess needs the next claim too; beside it, "
    "that both numbers lie below 0.",
    estimand="share of the linearly explained input row that the leading k whitened coordinates by output relevance "
    "explain, less k/d; k the fewest from which reading adds at most 0.03 nats of KL to the output",
    unit="of what is explained",
    side="above",
    threshold=0.0,
    matters=0.1,
    least=0.1,
    spread=0.17,
)

TURNED = Claim(
    name="more than an output turned at random",
    says="There the guess's part tells more of the input than as many coordinates of an output which looks at the "
    "stream as unevenly, but turned at random: it is this guess that tells it, and not that guess and input are both "
    "in large directions.",
    estimand="the same share, less its mean where B is turned by random rotations, at the same k",
    unit="of what is explained",
    side="above",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.045,
)

LEANS = Claim(
    name="leans on what is read little",
    says="The input is lost more with basis elements of the stream that the output weights little, more so than in "
    "random bases. A correlation below 0.2 is less than 4 % of the variance of ranks: it would not say where the input "
    "is.",
    estimand="rank correlation, given log variance, of what dropping a basis element and refitting loses of the input "
    "and its output weight, less the mean over random orthonormal bases; three quarters of the depth",
    unit="of correlation",
    side="below",
    threshold=0.0,
    matters=0.2,
    least=0.2,
    spread=0.25,
)

FILLED = Claim(
    name="slotted in",
    says="The basis elements that the output weights least are filled with the prediction towards the end, more than "
    "others of equal variance.",
    estimand="R² of the least weighted decile of basis elements from the final prediction, one layer before the last "
    "less at half depth; less the same of elements weighted more, matched on variance",
    unit="of R²",
    side="above",
    threshold=0.0,
    matters=0.05,
    least=0.05,
    spread=0.09,
)

PREDICTION = (
    "Written on 2026-11-30, before any run on works that confirm; a quick pilot on works that only choose (12 of "
    "them, windows of 64 tokens) had shown at three quarters of the depth a share 0.36 above k/d, 0.02 below that of "
    "outputs turned at random, a rank correlation of −0.03 ± 0.14, and elements weighted least that gain 0.01 ± 0.05 "
    "less on the final prediction than their control. So: more than a blind part (then named “through the guess”), "
    "supported, by 0.2 to 0.5, less the later the layer and the smaller ε, since k grows to nearly all coordinates; "
    "more than an output turned at random, refuted, within 0.05 of it: large directions hold both. The literal test: "
    "not supported, within 0.15 of random bases. Slotted in: refuted, although the elements weighted least, like all "
    "others, are foretold better towards the end. A model of random weights is to give the same signs: its input stays "
    "in the stream, in large directions, so its share too lies above k/d and within 0.05 of outputs turned at random, "
    "no basis element is special, and nothing is slotted in beyond the control. Added on the same day after a review, "
    "when a quick run had read 12 works that confirm: the answer takes the first two claims together, which makes it "
    "the one of large directions that input and guess share."
)

LINED_UP = (
    LinedUp(
        "Morris et al. 2023, Language Model Inversion",
        "From the next-token distribution alone, a trained inverter recovers prompts of Llama-2 7B with BLEU 59, 27 % "
        "exactly.",
        "",
        "There all log-probabilities are used, to many digits, which determine the last stream; here only what the "
        "guess needs to within so many nats, linearly, and one token.",
    ),
    LinedUp(
        "Carlini et al. 2024, Stealing Part of a Production Language Model",
        "Enough full logit vectors give the output projection up to a linear map, and with it the last hidden state.",
        "",
        "So “from all logits” tells everything that the last layer tells, by definition: it is no test, and not run.",
    ),
    LinedUp(
        "Finlayson et al. 2024, Logits of API-Protected LLMs Leak Proprietary Information",
        "Outputs lie in a space of as many dimensions as the model is wide.",
        "",
        "They count the dimensions that outputs can use; here it is counted how many the guess needs.",
    ),
    LinedUp(
        "Cancedda 2024, Spectral Filters, Dark Signals, and Attention Sinks",
        "Parts of the stream that the unembedding hardly reads (dark signals) carry attention sinking; most of it can "
        "be suppressed at little loss.",
        "",
        "There directions are ordered by the unembedding's singular values and removed in the pass; here by what "
        "reading depends on, in whitened coordinates, with sinks left out, and nothing is removed.",
    ),
)


def analyse(ground: Ground, records: Mapping[str, Records]) -> Report:
    """The report, from the records of the main arm."""
    main = records["main"]
    panel, found = Panel.of(ground, main), cuts(ground, main)
    cut = found[panel.layers.late][PRIMARY]
    of_guess = (bounded(one, cut, THROUGH.matters) for one in (panel.through(cut), panel.more_than_turned(cut)))
    made = *of_guess, panel.leaning(), panel.slotted()
    pairs = zip(STUDY.claims, made, strict=True)
    verdicts = tuple(decide(claim, replace(one, unit=claim.unit)) for claim, one in pairs)
    return Report(
        name=STUDY.name,
        question=STUDY.question,
        prediction=STUDY.prediction,
        answer=_answer(panel, cut, verdicts),
        about=_about(ground, panel),
        verdicts=verdicts,
        sections=(
            findings.divided(panel, found),
            findings.over_epsilon(panel, found),
            findings.alone(panel, main),
            findings.literal(panel, verdicts[2].estimate),
            findings.slotted(panel, found, verdicts[3].estimate),
        ),
        lined_up=_lined_up(panel, found, verdicts),
        notes=NOTES,
    )


def _answer(panel: Panel, cut: Cut, verdicts: tuple[Verdict, ...]) -> str:
    through, turned = verdicts[:2]
    extreme = cut.extreme(THROUGH.matters)
    since = f", since the guess needs {extreme}" if extreme else ""
    return (
        f"{SAYS[outcome(through, turned)]}{since}: "
        f"at layer {panel.layers.late} the share told by the {cut.k} of {cut.rank} "
        f"coordinates that the guess needs differs from chance ({cut.chance:.3f}) by {shown(through.estimate, 3)}, "
        f"from outputs turned at random by {shown(turned.estimate, 3)}."
    )


def _about(ground: Ground, panel: Panel) -> tuple[str, ...]:
    return (
        about_model(ground),
        f"Windows of {len(ground.texts['confirm'][0].ids)} tokens: {about_sets(ground)} Input and output embedding are "
        f"{ground.model.anatomy.tied}. The tuned lens is fitted on the first of them too.",
        "The guess at a layer is what the tuned lens reads there. Output relevance: the expected Fisher information of "
        "that reading, carried back through the final norm and the lens's map into the stream, from tokens drawn from "
        f"what is read. Layers: {', '.join(map(str, panel.layers.all))}.",
    )


def _lined_up(
    panel: Panel, found: Mapping[int, Mapping[float, Cut]], verdicts: tuple[Verdict, ...]
) -> tuple[LinedUp, ...]:
    last, late = panel.layers.last, panel.layers.late
    cut = found[last][PRIMARY]
    end = shown(panel.estimate(panel.told_at(last, slice(0, cut.k))), 3)
    whole = shown(panel.estimate(panel.told_at(last)), 3)
    ours = (
        f"At the last layer the guess's {cut.k} coordinates explain {end} of the input row's variance, all {whole}.",
        f"All of the last stream explains {whole}.",
        f"{cut.k} of {cut.rank} whitened coordinates give the output but for {PRIMARY:g} nats.",
        f"At layer {late}, the share of the input told by what the guess needs, less chance: "
        f"{shown(verdicts[0].estimate, 3)}.",
    )
    return tuple(replace(one, ours=text) for one, text in zip(LINED_UP, ours, strict=True))


NOTES = (
    "From all logits everything that the last layer holds can be had, since they determine its normed stream where the "
    "unembedding has full rank: that is no test. What is tested is a guess kept to within so many nats.",
    "All of it is linear. What S and the rest both tell counts for S; the rest is what the stream tells beyond the "
    "guess.",
    "S is as good as its estimate: a noisy one needs more coordinates for the same reading, and moves its share "
    "towards chance, not to one side.",
    "The decoder is least squares on the fit texts. Shares are of the product of its prediction and the truth on other "
    "texts, which adds up over coordinates exactly; four refits without a quarter of the fit texts each, covariance, "
    "relevance and decoder, widen the verdicts' intervals.",
    "The tuned lens is not refitted, and the interval of “slotted in” leaves out how sure the last layer's k is.",
)

_NEEDS = {
    "quick": {"fit": fitting.FIT["quick"], "tune": Need(8, 64), "confirm": Need(12, 64)},
    "default": {"fit": fitting.FIT["default"], "tune": Need(24, 128), "confirm": Need(96, 128)},
    "large": {"fit": fitting.FIT["large"], "tune": Need(48, 256), "confirm": Need(480, 256)},
}

STUDY = Study(
    name="is_the_input_stored_in_the_guess",
    question="The token read can still be had from late layers, which look like the guess of the next one. Is it there "
    "because the guess implies it, or beside the guess, in what the (un)embedding weights little, until predictive "
    "information is slotted in there? (nostalgebraist, interpreting GPT: the logit lens, 2020, and its comments; our "
    "words.)",
    prediction=PREDICTION,
    claims=(THROUGH, TURNED, LEANS, FILLED),
    arms={"main": Arm(_NEEDS, stages.MAIN, stages.check, stages.cost, fitting.lenses("tuned"))},
    analyse=analyse,
    minutes={"quick": 1, "default": 8, "large": 200},
    revision=3,
)
