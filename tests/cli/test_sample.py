"""``midstream sample``: the text as it comes, what layers read, one JSON document; nothing made is lost."""

from __future__ import annotations

import json

import pytest

import midstream as ms
from midstream.cli.main import INTERRUPTED
from midstream.cli.sample import visible
from midstream.sample import generate as generation

PROMPT = "The capital of France is"


@pytest.fixture
def sample(midstream, tiny_folder):
    return lambda *words: midstream("sample", *words, "--model", str(tiny_folder))


def test_the_text_is_that_of_python(sample, tiny):
    done = sample(PROMPT, "--tokens", "9", "--temperature", "1.5", "--seed", "4")
    assert done.exit_code == 0, done.stderr
    expected = ms.generate(tiny, PROMPT, tokens=9, temperature=1.5, seed=4).text
    assert done.stdout == visible(expected) + "\n"


def test_a_document_has_everything(sample, tiny):
    words = ("--tokens", "5", "--edit", "layers=9 add=random length=0.2", "--anchor", "15:0.1", "--read")
    done = sample(PROMPT, *words, "--layers", "3,30", "--format", "json")
    document = json.loads(done.stdout)
    made = ms.generate(tiny, PROMPT, tokens=5, edits=["layers=9 add=random length=0.2"], anchor="15:0.1")
    assert [token["id"] for token in document["tokens"]] == [step.token for step in made.steps[0]]
    assert document["text"] == made.text
    assert document["ended"] == "length"
    assert document["settings"]["anchor"]["alpha"] == 0.1
    assert document["settings"]["edits"][0]["what"]["vector"]["shape"] == [32]
    assert document["readings"]["layer"] == [3, 30] * 5
    assert document["readings"]["target_id"][::2] == [token["id"] for token in document["tokens"]]
    logprobs = document["readings"]["logprob"][1::2]
    assert logprobs == pytest.approx([token["logprob"] for token in document["tokens"]], abs=1e-4)


def test_a_line_a_token_with_a_tick_where_a_layer_has_it(sample, tiny):
    done = sample(PROMPT, "--tokens", "4", "--read", "--every", "10")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["log", "p", "token", "0", "10", "20", "30"]
    assert len(lines) == 4
    assert all(line.endswith("✓") for line in lines), "greedy: the last layer always has it"
    few = sample(PROMPT, "--tokens", "2", "--read")
    assert few.stdout.splitlines()[0].split()[-1] == "30"


def test_what_changes_nothing_is_said_beside_the_text(sample):
    plain, drawn = sample(PROMPT, "--tokens", "5"), ("--top-k", "3", "--min-p", "0.1")
    done = sample(PROMPT, "--tokens", "5", *drawn)
    assert done.exit_code == 0
    assert done.stdout == plain.stdout
    said = "midstream: at temperature 0 the best token is taken, with or without top-k and min-p: give a temperature"
    assert done.stderr.startswith(said)
    assert not plain.stderr
    assert not sample(PROMPT, "--tokens", "5", *drawn, "--temperature", "1").stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_made_before_an_interruption_is_shown(sample, monkeypatch, tiny, form):
    whole = ms.generate(tiny, PROMPT, tokens=3)
    inner, calls = generation.capture_sites, []

    def interrupted(*given, **more):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return inner(*given, **more)

    expected = whole.text
    monkeypatch.setattr(generation, "capture_sites", interrupted)
    done = sample(PROMPT, "--tokens", "20", "--format", form)
    assert done.exit_code == INTERRUPTED
    assert "interrupted" in done.stderr
    if form == "json":
        document = json.loads(done.stdout)
        assert (document["text"], document["ended"]) == (expected, "interrupted")
    else:
        assert done.stdout == visible(expected) + "\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("",), "the prompt is empty"),
        ((PROMPT, "--tokens", "0"), "a whole number of 1 or more"),
        ((PROMPT * 80,), "fills the model's context of 256"),
        ((PROMPT, "--temperature", "-1"), "temperature is -1.0"),
        ((PROMPT, "--edit", "layers=3 scale=2 positions=99"), "names position 99"),
        ((PROMPT, "--anchor", "30:0.1"), "expected 1 to 29"),
        ((PROMPT, "--read", "--layers", "31"), "unknown layer 31"),
    ],
)
def test_a_mistake_is_a_sentence(sample, words, said):
    done = sample(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
