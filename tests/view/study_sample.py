"""A report as a study of anchoring would write it, and one whose every text is hostile; no model."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

from view.sample import HOSTILE

from midstream.record import Estimate, Provenance
from midstream.study.report import Chart, Grid, Line, LinedUp, Report, Section
from midstream.study.verdict import Claim, Verdict, decide

METHOD = (
    "delete-one-cluster jackknife, t with 29 degrees of freedom; each end or that of a cluster bootstrap-t, "
    "4999 draws, whichever is farther"
)
LAYERS, STRENGTHS = (6, 12, 18, 24), (0.25, 0.5, 1.0)


def estimate(value: float, half: float, *, clusters: int = 30, unit: str = "nats", share: float = 0.12) -> Estimate:
    """An even interval of that half width; NaN for none."""
    return Estimate(value, value - half, value + half, 0.95, clusters, clusters, 91_204, METHOD, unit, share)


def claims() -> tuple[Claim, Claim]:
    """What the study says before it runs: the primary claim, and one of absence."""
    return (
        Claim(
            name="loss falls",
            says="Anchoring at the strength chosen on tune works lowers the loss of the tokens that follow.",
            estimand="mean over confirm tokens of loss(anchored) less loss(plain), the same tokens, all works pooled",
            unit="nats a token",
            side="below",
            threshold=0.0,
            matters=0.02,
        ),
        Claim(
            name="filler does nothing",
            says="Filler of equal token count changes the loss by no more than what matters.",
            estimand="mean over confirm tokens of loss(filler) less loss(plain)",
            unit="nats a token",
            side="within",
            threshold=0.0,
            matters=0.02,
        ),
    )


def verdicts() -> tuple[Verdict, ...]:
    """Supported, and undecided."""
    first, second = claims()
    return (
        decide(first, estimate(-0.0312, 0.0138, unit=first.unit)),
        decide(second, estimate(0.0093, 0.0141, unit=second.unit)),
    )


def chart() -> Chart:
    """Four layers, three strengths, and two controls, one of them without intervals."""
    shape = {
        6: (-0.004, -0.006, 0.011),
        12: (-0.012, -0.031, -0.019),
        18: (-0.009, -0.024, -0.041),
        24: (-0.002, 0.003, 0.028),
    }
    lines = [
        Line(f"layer {layer}", STRENGTHS, y, tuple(v - 0.007 for v in y), tuple(v + 0.009 for v in y))
        for layer, y in shape.items()
    ]
    none = (math.nan,) * 3
    lines += [
        Line(
            "covariance-matched direction",
            STRENGTHS,
            (0.001, 0.004, 0.013),
            (-0.004, -0.002, 0.004),
            (0.006, 0.01, 0.022),
            "control",
        ),
        Line("filler", STRENGTHS, (0.009,) * 3, none, none, "control"),
    ]
    return Chart(
        name="loss_by_strength",
        title="Loss of the next 64 tokens, anchored less plain",
        x="strength of the anchor, share of the residual stream's norm",
        y="difference of loss, nats a token",
        lines=tuple(lines),
        caption="Below the line at 0 anchoring helps. Bars are simultaneous 95 % bands over layers (max-t, 30 works); "
        "filler has too few works for one.",
        ticks=((0.25, "¼"), (0.5, "½"), (1.0, "1 (whole norm)")),
    )


def curves(count: int = 31) -> Chart:
    """Many values on x: bands."""
    xs = tuple(float(i) for i in range(count))
    lines = []
    for name, sign, role in (
        ("anchored", -1.0, "main"),
        ("plain", 0.0, "control"),
        ("shuffled labels", 0.3, "control"),
    ):
        y = tuple(sign * 0.04 * math.sin(i / 9) ** 2 + 0.001 * math.cos(i) for i in xs)
        lines.append(Line(name, xs, y, tuple(v - 0.006 for v in y), tuple(v + 0.008 for v in y), role))
    return Chart(
        "by_layer",
        "Difference of KL(output ‖ lens) by layer",
        "layer",
        "difference, nats",
        tuple(lines),
        "Bands: max-t.",
    )


def sections() -> tuple[Section, ...]:
    """Text and chart; text and table; text alone."""
    rows = tuple(
        (str(layer), f"{strength:g}", f"{-0.001 * layer * strength:+.4f}", f"{0.0012 * layer:.4f}", "30", "12%")
        for layer in LAYERS
        for strength in STRENGTHS
    )
    return (
        Section(
            "Where and how strongly",
            (
                "An anchor is the mean of the residual stream over the question, added back at every later position.",
                "The layer and the strength were chosen on tune works; the intervals here are of confirm works only.",
            ),
            chart=chart(),
        ),
        Section(
            "Every layer and strength",
            ("Differences of loss in nats a token, anchored less plain, on the works that confirm.",),
            grid=Grid(("layer", "strength", "difference", "half width", "works", "largest work"), rows),
        ),
        Section(
            "Attention sinks", ("Position 0 and every position with a norm above 10 times the median are left out.",)
        ),
    )


def report() -> Report:
    """The whole report."""
    return Report(
        name="does_anchoring_help",
        question="“If the model kept looking back at what it was asked, would it stay on topic?” (M. Okafor, issue 14)",
        prediction="I expect a fall of 0.02 to 0.05 nats at layers 10 to 20 and harm at layer 24; filler does nothing.",
        answer="Yes, a little: anchoring at layer 12 lowers the loss by 0.0312 nats a token "
        "(95 % interval 0.0174 to 0.0450, 30 works).",
        about=(
            "The model is SmolLM2-135M-Instruct, instruction-tuned, in Q4_1, reading raw text after <|im_start|>.",
            "30 works of wikitext-2 to confirm, 12 to tune; nothing was fitted.",
            "Intervals count works; a work is one article.",
        ),
        verdicts=verdicts(),
        sections=sections(),
        lined_up=(
            LinedUp("Feedback Transformer (Fan et al. 2020)", "−0.05 nats on enwik8 from feeding the top layer back",
                    "−0.0312 nats without training",
                    "They train with the feedback; ours is added to a finished model."),
            LinedUp("XLNet, two-stream attention (Yang et al. 2019)", "+1.2 points on RACE", "no such task was run",
                    "A permutation objective sees both sides of a token, a causal model never does."),
            LinedUp("Attention sinks (Xiao et al. 2024)", "perplexity explodes without the first 4 tokens",
                    "sinks left out of every average", "The anchor does not touch the sink: not the same effect."),
        ),
        caveat="This was a quick run: nothing is final.",
        notes=("A lower loss is not a better answer: no task was scored.",
               "One model of one size; nothing is said of others."),
        provenance=Provenance(
            model="smollm2-135m-instruct-q4_1.gguf", identity="9f2c" * 16,
            circumstances={"engine": "torch 2.13.0", "dtype": "bfloat16", "device": "cpu", "threads": "2"},
            corpus="07ab" * 16, seed=17, command="midstream study does_anchoring_help --model M --corpus eval.parquet",
            time="2026-11-30T09:12:44Z", precision={"name": "fast"}, settings={"tokens": 91204},
        ),
    )  # fmt: skip


NASTY = (*HOSTILE, "| a | b |\n|---|---|", "![x](http://a.example/x.png)", "[a](javascript:1)", "# x", "- x", "1. x",
         "```", "*a* _b_ ~~c~~", "<!-- x", "{{ 7*7 }}", "{% raw %}", "\x1b[31mred", "--> ]]>", "\\", "&lt;b&gt;",
         "a_b_c", "===")  # fmt: skip
"""Texts that try to be markup of some kind."""


def hostile() -> Report:
    """The report with each of its texts followed by hostile ones, different ones each."""
    count = iter(range(10**6))

    def spoil(value):
        if isinstance(value, str):
            n = next(count)
            return f"{value} {NASTY[n % len(NASTY)]} {NASTY[(n + 7) % len(NASTY)]}"
        if isinstance(value, tuple):
            return tuple(spoil(part) for part in value)
        if isinstance(value, dict):
            return {spoil(name): spoil(part) for name, part in value.items()}
        if is_dataclass(value):
            kept = ("side", "counts", "found", "role")
            own = {f.name: getattr(value, f.name) for f in fields(value)}
            made = {name: part if name in kept else spoil(part) for name, part in own.items()}
            return type(value)(**made)
        return value

    return spoil(report())


def texts(value) -> list[str]:
    """Every text a report holds, but for the names of files and choices."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (tuple, list)):
        return [text for part in value for text in texts(part)]
    if isinstance(value, dict):
        return [text for pair in value.items() for text in texts(pair)]
    if is_dataclass(value):
        own = (f.name for f in fields(value) if f.name not in ("side", "counts", "role", "lines", "ticks"))
        if isinstance(value, Chart):
            own = ("title", "caption")
        return [text for name in own for text in texts(getattr(value, name))]
    return []
