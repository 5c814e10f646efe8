"""For tests of studies: one that costs nothing (does text hold more of one letter?), and small models of bytes."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from midstream.interval import ratio
from midstream.model.load import load
from midstream.model.tokenizer import Tokenizer, _byte_characters
from midstream.study.report import Chart, Line, Report, Section
from midstream.study.study import Arm, Cost, Need, Stage, Study, Unit
from midstream.study.toy import Shape, fresh
from midstream.study.verdict import Claim, decide

CLAIM = Claim("even", "Tokens are even.", "share of even tokens, less a half", "1", "above", 0.0, 0.2, spread=0.05)
SIDE = {"quick": {"tune": Need(2, 8)}, "default": {"tune": Need(4, 8)}, "large": {"tune": Need(4, 8)}}
NEEDS = {size: {"tune": Need(4, 16), "confirm": Need(12, 16)} for size in ("quick", "default", "large")}


def units(name):
    return lambda ground, records: [
        Unit(f"{name}-{number:02d}", text) for number, text in enumerate(ground.texts[name])
    ]


def measure(ground, unit):
    ground.keep.setdefault("measured", []).append(unit.name)
    tokens = np.array(unit.what.ids, np.int32)
    return {"document": np.full(len(tokens), unit.what.number, np.int32), "token": tokens}


def even(ground, columns, own):
    texts = ground.texts[own]
    sums = [float((columns["token"][columns["document"] == text.number] % 2 == 0).sum()) for text in texts]
    counts = np.array([len(text.ids) for text in texts])
    works = [text.work for text in texts]
    draw = np.random.default_rng(ground.seed)
    return ratio(np.array(sums) - counts / 2, counts, clusters=works, generator=draw, unit="1")


def analyse(ground, records):
    estimate = even(ground, records["main"]["count"], "confirm")
    side = f"; the side arm saw {len(records['side']['aside']['token'])} tokens" if "side" in records else ""
    chart = Chart("share", "Even tokens", "set", "share", (Line("even", (0.0,), (0.5,), (0.4,), (0.6,)),), "One point.")
    return Report(
        "even_tokens", "Are tokens even?", "No.", f"Of all{side}.", ("A model.",), (decide(CLAIM, estimate),),
        (Section("Chart", (), None, chart),), (), (),
    )  # fmt: skip


def cost(ground):
    return Cost(12, 192, 192, 0.5)


STUDY = Study(
    name="even_tokens",
    question="Are tokens even?",
    prediction="No.",
    claims=(CLAIM,),
    arms={
        "main": Arm(NEEDS, (Stage("first", units("tune"), measure), Stage("count", units("confirm"), measure)),
                    lambda ground: None, cost),
        "side": Arm(SIDE, (Stage("aside", units("tune"), measure),), lambda ground: None, cost),
    },
    analyse=analyse,
    minutes={"quick": 1, "default": 1, "large": 1},
)  # fmt: skip


def byte_model(module):
    """A toy of ``study.toy`` as a model: its tokens are the bytes of a text."""
    backend = Backend(models.BPE(vocab=_byte_characters(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return load((module, Tokenizer(backend, identity="bytes")))


def random_model(seed=0):
    """A GPT-2 of bytes with the weights it would begin its training with: 6 blocks of width 64."""
    return byte_model(fresh(Shape(64, 6, 4, 96), seed))
