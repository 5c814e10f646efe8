"""A fit by several workers is the fit by one, and goes on with the parts that are there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES

from midstream.corpus.source import open_corpus
from midstream.errors import MidstreamError, RequestError
from midstream.lens.kind import parse
from midstream.run.fit import fit
from midstream.run.fit_parts import PARTS, fit_in_parts
from midstream.run.fit_plan import FitOptions
from midstream.run.runner import Serial
from midstream.run.workers import runner

TESTS = str(Path(__file__).parent.parent)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choice(words) for _ in range(70)) for _ in range(16)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n<|endofdoc|>\n".join(texts))
    return path


def options(out, *kinds, **more):
    return FitOptions(tuple(map(parse, kinds)), out=out, layers=(5, 15), tokens=1000, **more)


@pytest.mark.parametrize("name", ["serial", "pool", "ray"])
def test_parts_add_up_to_the_whole(tiny, corpus, tmp_path, monkeypatch, name):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    workers = runner(tiny, name, workers=None if name == "serial" else 2)
    whole = fit(tiny, corpus, options(tmp_path / "whole", "shortcut", "future:1")).lenses
    parts = fit_in_parts(tiny, open_corpus(corpus), options(tmp_path / "parts", "shortcut", "future:1"), workers).lenses
    for one, other in zip(whole, parts, strict=True):
        assert one.name == other.name
        assert one.about["fit"]["positions"] == other.about["fit"]["positions"]
        for layer, move in one.transports.items():
            torch.testing.assert_close(other.transports[layer].weight, move.weight, rtol=1e-3, atol=1e-3)
    assert not list((tmp_path / "parts").glob("*.sums"))


class Failing:
    """A runner that stops after some parts."""

    here = 1

    def __init__(self, model, after):
        self.inner, self.left = Serial(model), after

    def run(self, job, items):
        for result in self.inner.run(job, items):
            if not self.left:
                raise MidstreamError("the power is gone.")
            self.left -= 1
            yield result


def test_parts_that_are_there_are_not_made_again(tiny, corpus, tmp_path):
    wanted = options(tmp_path, "shortcut")
    with pytest.raises(MidstreamError, match="power"):
        fit_in_parts(tiny, open_corpus(corpus), wanted, Failing(tiny, 3))
    kept = sorted(tmp_path.glob("*.sums"))
    assert len(kept) == 3
    kept[0].write_bytes(b"damaged")
    counting = Failing(tiny, PARTS - 2)
    assert fit_in_parts(tiny, open_corpus(corpus), wanted, counting).lenses
    assert counting.left == 0


@pytest.mark.parametrize("more", [{"part": (1, 2)}, {"resume": (Path("x.sums"),)}])
def test_a_fit_cannot_be_cut_twice(tiny, corpus, tmp_path, more):
    with pytest.raises(RequestError, match="cuts the fit into parts itself"):
        fit_in_parts(tiny, open_corpus(corpus), options(tmp_path, "shortcut", **more), Serial(tiny))
