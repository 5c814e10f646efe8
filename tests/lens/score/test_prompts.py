"""pass@k against ranks from plain readings, its null, and prompt files of any kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES

import midstream as ms
from midstream.errors import RequestError
from midstream.lens.lens import LOGIT, Lens, Transport
from midstream.lens.read.request import request
from midstream.lens.score import prompt_file, prompts
from midstream.lens.score.prompt_file import Item, load
from midstream.lens.score.prompts import PromptScores, estimates, forms, notes, score

ITEMS = [
    Item("The capital of France is ", ("city", "Paris"), "Paris"),
    Item("Once upon a time there", ("was", "of the unreadable kind")),
    Item("why is the sky", ("unreadable words",), "blue"),
    Item("The Eiffel Tower is located in the city of", ("Paris", "France"), "a"),
    Item("The Eiffel Tower is located in the city of", ("a",), "is"),
]


def moved(seed):
    generator = torch.Generator().manual_seed(seed)
    return Lens(
        f"moved {seed}", "output", 1, {n: Transport(torch.randn(32, 32, generator=generator)) for n in range(31)}
    )


def pick(rows, measure, lens="logit", against=""):
    (found,) = [row for row in rows if (row.measure, row.lens, row.against) == (measure, lens, against)]
    return found.estimate


def test_a_word_has_up_to_six_forms(tiny):
    encode = tiny.tokenizer.encode
    wanted = {" Paris", "Paris", " paris", "paris"}
    single = {encode(form, added=False).ids[0] for form in wanted if len(encode(form, added=False).ids) == 1}
    assert forms(tiny, "Paris") == forms(tiny, " Paris ") == sorted(single)
    assert tiny.tokenizer.single(" Paris") in forms(tiny, "paris"), "capitalised"
    assert tiny.tokenizer.single(" was") in forms(tiny, "WAS"), "lower"
    assert forms(tiny, "of the unreadable kind") == []


@pytest.mark.parametrize("strip", [False, True])
def test_ranks_are_the_best_over_layers_and_forms_of_a_plain_reading(tiny, strip, monkeypatch):
    monkeypatch.setattr(prompts, "BATCH", 2)
    lenses = [LOGIT, moved(1), Lens("few", "output", 1, layers=(10, 20))]
    found = score(tiny, lenses, ITEMS, wanted=request(tiny, {"lens": lenses, "every": 10}), strip=strip)
    assert found.kept.tolist() == [0, 1, 3, 4]
    assert (found.items, found.intermediates, found.readable) == (5, 8, 6)
    words = ["city", "Paris", "was", "Paris", "France", "a"]
    assert found.owner.tolist() == [0, 0, 1, 2, 2, 3]
    for row, number in enumerate(found.kept):
        text = ITEMS[number].prompt.rstrip() if strip else ITEMS[number].prompt
        watch = [tiny.tokenizer.token(index) for word in words for index in forms(tiny, word)]
        watched = ms.read(tiny, text, lens=lenses, watch=watch, every=10).watched
        last = watched["position"] == watched["position"].max()
        for column, word in enumerate(words):
            mine = last & np.isin(watched["watch_id"], forms(tiny, word))
            for lens in lenses:
                rank = watched["rank"][mine & (watched["lens"] == lens.name)].min()
                assert abs(found.best[lens.name][row, column] - rank) <= 1
    own = ms.read(tiny, ITEMS[3].prompt, layers=-1, watch=[tiny.tokenizer.token(i) for i in forms(tiny, "a")])
    rank = own.watched["rank"][own.watched["position"] == len(own.positions["position"]) - 1].min()
    assert found.known[2] == (rank <= prompts.KNOWN)
    assert not found.known[1], "without a target nothing is known"


def test_pass_at_k_is_the_mean_over_items_of_the_share_of_intermediates(tiny):
    best = np.array([[1, 30, 5, 9], [1, 2, 11, 4], [7, 7, 7, 7]], dtype=np.int32)
    found = PromptScores(4, 6, np.array([0, 1, 3]), 4, {"logit": best}, np.array([0, 0, 1, 2]), None)
    rows = estimates(found, "toy", [LOGIT], seed=0)
    assert {row.measure for row in rows} == {
        f"pass@{k}{what} toy" for k in (1, 5, 10) for what in ("", " null", " - null")
    }
    own = [0.5, 0.0, 1.0]
    assert pick(rows, "pass@10 toy").value == pytest.approx(np.mean(own))
    assert pick(rows, "pass@1 toy").value == pytest.approx(np.mean([0.5, 0, 0]))
    # only two permutations of three leave nothing in its place: an item's null is the mean of the others' shares
    null = pick(rows, "pass@10 null toy").value
    assert null == pytest.approx(np.mean([(1 + 1) / 2, (1 + 1) / 2, (1 + 1) / 2]), abs=0.1)
    assert pick(rows, "pass@10 - null toy").value == pytest.approx(np.mean(own) - null)
    assert pick(rows, "pass@10 toy").documents == 3
    assert notes(found, "toy", strip=True)[0].startswith("toy: 3 of 4 items count, with 4 of the file's 6")


def test_the_null_permutes_without_fixed_points_and_is_seeded():
    drawn = prompts._deranged(6, np.random.default_rng(1))
    assert drawn.shape == (200, 6)
    assert (drawn != np.arange(6)).all()
    assert (np.sort(drawn, axis=1) == np.arange(6)).all()
    assert (drawn == prompts._deranged(6, np.random.default_rng(1))).all()
    assert prompts._deranged(1, np.random.default_rng(1)).shape == (0, 1)


def ranked(seed, lift):
    """Random ranks of 60 items with 2 intermediates each; ``lift``: chance that an item's own is found."""
    draw = np.random.default_rng(seed)
    best = draw.integers(1, 40, (60, 120)).astype(np.int32)
    owner = np.repeat(np.arange(60), 2)
    own = (owner == np.arange(60)[:, None]) & (draw.random((60, 120)) < lift)
    best[own] = 1
    known = np.arange(60) % 3 == 0
    return PromptScores(60, 120, np.arange(60), 120, {"logit": best, "moved 1": best[::-1]}, owner, known)


def test_a_lens_that_knows_nothing_is_at_its_null_and_a_planted_one_is_above():
    nothing = estimates(ranked(1, 0.0), "toy", [LOGIT, moved(1)], seed=0)
    assert pick(nothing, "pass@10 null toy").value == pytest.approx(10 / 39, abs=0.02)
    less = pick(nothing, "pass@10 - null toy")
    assert less.low <= 0 <= less.high
    planted = pick(estimates(ranked(1, 0.5), "toy", [LOGIT, moved(1)], seed=0), "pass@10 - null toy")
    assert planted.low > 0.2
    assert planted.value == pytest.approx(0.5 * (1 - 10 / 39), abs=0.1)


def test_pairs_and_known_items():
    found = ranked(2, 0.5)
    rows = estimates(found, "toy", [LOGIT, moved(1)], seed=0)
    first, second = pick(rows, "pass@5 toy"), pick(rows, "pass@5 toy", "moved 1")
    assert pick(rows, "pass@5 toy", against="moved 1").value == pytest.approx(first.value - second.value)
    known = pick(rows, "pass@5 toy, known")
    assert known.documents == 20
    assert known.value == pytest.approx(found.passed("logit", 5).diagonal()[found.known].mean())


def test_a_reading_that_is_not_finite_is_undefined(tiny):
    broken = Lens("broken", "output", 1, {n: Transport(torch.full((32, 32), torch.nan)) for n in range(31)})
    found = score(tiny, [broken], ITEMS, wanted=request(tiny, {"lens": [broken]}))
    assert (found.best["broken"] == -1).all()
    assert np.isnan(pick(estimates(found, "toy", [broken], seed=0), "pass@10 toy", "broken").value)


def test_no_item_that_counts_is_undefined_not_nothing(tiny):
    found = score(tiny, [LOGIT], [ITEMS[2]], wanted=request(tiny, {"lens": [LOGIT]}))
    assert len(found.kept) == 0
    assert np.isnan(pick(estimates(found, "toy", [LOGIT], seed=0), "pass@10 toy").value)


def test_a_prompt_longer_than_the_context_is_refused(tiny):
    with pytest.raises(RequestError, match="context"):
        score(tiny, [LOGIT], [Item("a king " * 300, ("was",))], wanted=request(tiny, {"lens": [LOGIT]}))


def test_a_file_is_read_as_published(tmp_path):
    path = tmp_path / "multihop.json"
    entry = {"name": "x", "prompt": "The colour of the sky is ", "target": "blue", "intermediates": ["sky", "day"]}
    path.write_text(json.dumps({"items": [entry, {"prompt": SENTENCES[0], "intermediates": ["Paris"]}]}))
    assert load(path) == [
        Item("The colour of the sky is ", ("sky", "day"), "blue"),
        Item(SENTENCES[0], ("Paris",), None),
    ]


BAD = {
    "no JSON": "{",
    "no items": '{"prompts": []}',
    "a list": "[1, 2]",
    "items is a number": '{"items": 7}',
    "no item": '{"items": []}',
    "an item is a number": '{"items": [3]}',
    "no prompt": '{"items": [{"intermediates": ["a"]}]}',
    "an empty prompt": '{"items": [{"prompt": " ", "intermediates": ["a"]}]}',
    "no intermediates": '{"items": [{"prompt": "a"}]}',
    "empty intermediates": '{"items": [{"prompt": "a", "intermediates": []}]}',
    "an intermediate is a number": '{"items": [{"prompt": "a", "intermediates": [1]}]}',
    "a blank intermediate": '{"items": [{"prompt": "a", "intermediates": [" "]}]}',
    "a target is a list": '{"items": [{"prompt": "a", "intermediates": ["a"], "target": []}]}',
    "nested too deeply": '{"items": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "too many intermediates": json.dumps({"items": [{"prompt": "a", "intermediates": ["a"] * 10_001}]}),
    "too long a prompt": json.dumps({"items": [{"prompt": "a" * 70_000, "intermediates": ["a"]}]}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_a_sentence(case, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(BAD[case])
    with pytest.raises(RequestError, match=r"expected|at most|no text"):
        load(path)


def test_a_huge_or_missing_or_latin_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="cannot read"):
        load(tmp_path / "none.json")
    path = tmp_path / "latin.json"
    path.write_bytes('{"items": "é"}'.encode("latin-1"))
    with pytest.raises(RequestError, match="UTF-8"):
        load(path)
    monkeypatch.setattr(prompt_file, "LARGEST", 5)
    with pytest.raises(RequestError, match="bytes"):
        load(path)
