"""The driver: which text is read, and estimates equal to those made by hand from plain readings."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_oracle import build

import midstream as ms
from midstream.corpus.source import Document
from midstream.errors import RequestError
from midstream.interval import paired_ratio, ratio
from midstream.lens.lens import BackOff, Lens, Transport
from midstream.lens.read import reading
from midstream.run.score import ScoreOptions, score
from midstream.run.score_text import Held, Span, first_tokens, spread

LAST = 30


def document(number: int, text: str) -> Document:
    return Document(number, f"d{number}", text, hashlib.sha256(text.encode()).hexdigest(), {})


def texts(count=14):
    made = [f"{SENTENCES[n % 4]} and {SENTENCES[(3 * n + 1) % 4]}. " * (1 + n % 3) + str(n) for n in range(count)]
    return [
        (document(number, text), f"work {number // 2 if count > 24 else number}") for number, text in enumerate(made)
    ]


def lens(seed, **more):
    generator = torch.Generator().manual_seed(seed)
    maps = {n: Transport(torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator)) for n in range(LAST + 1)}
    return Lens(**{"name": f"moved {seed}", "reader": "output", "offset": 1, "transports": maps} | more)


def pick(table, **wanted):
    wanted = {"against": "", "site": "resid_post"} | wanted
    mask = np.all([table.columns[name] == value for name, value in wanted.items()], axis=0)
    assert mask.sum() == 1, wanted
    return {name: values[mask][0] for name, values in table.columns.items()}


def by_hand(model, documents, lenses, options):
    """For each document its readings at the positions that the rule names: name -> (lens, layer) -> values."""
    span = Span.of(lenses, options.tokens)
    ids = [first_tokens(model, doc.text, options.tokens) for doc, _ in documents]
    chosen = spread([span.room(row) for row in ids], options.positions)
    for (doc, cluster), row, at in zip(documents, ids, chosen, strict=True):
        if not len(at):
            continue
        text = "".join(model.tokenizer.token(int(i)) for i in row)
        assert model.tokenizer.encode(text).ids == row.tolist(), "these texts have no token cut in two"
        table = ms.read(model, text, lens=lenses, every=options.every)
        yield cluster, table.pick(np.isin(table.columns["position"], at + span.before)), doc


@pytest.mark.parametrize("tokens", [256, 40])
def test_values_pairs_and_intervals_are_those_of_plain_readings(tiny, tokens):
    lenses = [ms.Lens("logit", "output", 1), lens(1)]
    documents, options = texts(), ScoreOptions(every=10, positions=150, tokens=tokens)
    table = score(tiny, lenses, documents, options)
    readings = list(by_hand(tiny, documents, lenses, options))
    clusters = [cluster for cluster, _, _ in readings]
    for measure, column, sign in (
        ("kl", "kl_final_lens", 1),
        ("cross_entropy", "logprob", -1),
        ("entropy", "entropy", 1),
    ):
        for layer in (0, 20):
            sums = np.array(
                [
                    [
                        sign
                        * rows.columns[column][
                            (rows.columns["lens"] == one.name) & (rows.columns["layer"] == layer)
                        ].sum()
                        for _, rows, _ in readings
                    ]
                    for one in lenses
                ]
            )
            counts = [len(np.unique(rows.columns["position"])) for _, rows, _ in readings]
            kept = {"clusters": clusters, "generator": np.random.default_rng(0), "unit": "nats"}
            first, less = ratio(sums[0], counts, **kept), paired_ratio(sums, counts, **kept)
            found = pick(table, lens="logit", layer=layer, measure=measure)
            assert found["value"] == pytest.approx(first.value, abs=1e-3)
            # equal but for the last digits, sums may draw other bootstrap samples
            near = 0.1 * (first.high - first.low)
            assert [found["low"], found["high"]] == pytest.approx([first.low, first.high], abs=near)
            assert (found["clusters"], found["tokens"]) == (first.clusters, sum(counts))
            pair = pick(table, lens="logit", layer=layer, measure=measure, against="moved 1")
            assert pair["value"] == pytest.approx(less.value, abs=1e-3)
            assert pair["low"] == pytest.approx(less.low, abs=0.1 * (less.high - less.low))
    assert pick(table, lens="logit", layer=LAST, measure="agreement")["value"] == 1
    assert pick(table, lens="logit", layer=LAST, measure="kl")["value"] == pytest.approx(0, abs=1e-5)


def test_a_far_lens_stands_beside_its_baselines(tiny):
    token = lens(3, name="base", offset=2, source="token", layers=(0,))
    tokens = {0: Transport(torch.randn(32, 128, generator=torch.Generator().manual_seed(4)))}
    tokens = Lens("more", "output", 2, tokens, source="tokens", layers=(0,))
    documents, options = texts(), ScoreOptions(every=10, positions=120)
    own = own_choices(tiny, documents, options)
    choices, real, current, previous = (np.concatenate(part) for part in zip(*own, strict=True))
    first = next(i for i in range(len(current)) if len(set(previous[current == current[i]].tolist())) > 1)
    pair = previous[first], current[first]
    often = int(np.bincount(choices).argmax())
    answer = int(choices[first])
    size = tiny.anatomy.vocabulary
    one = [torch.tensor([int(value)]) for value in (pair[0] * size + pair[1], answer, pair[1], 1)]
    table_of = BackOff(*one, often, size)
    predicted = np.where(current == pair[1], np.where(previous == pair[0], answer, 1), often)
    assert len(set(predicted.tolist())) == 3
    far = lens(3, name="future:1", offset=2, baselines=(token, tokens), back_off=table_of)
    table = score(tiny, [far], documents, options)
    same = pick(table, lens="future:1", layer=0, measure="kl", against="future:1 | token")
    assert same["value"] == pytest.approx(0, abs=1e-5), "at layer 0 the stream is the token's row"
    for layer in (10, -1):
        assert pick(table, lens="future:1", layer=layer, measure="kl", against="future:1 | tokens")[
            "value"
        ] == pytest.approx(
            pick(table, lens="future:1", layer=layer, measure="kl")["value"]
            - pick(table, lens="future:1 | tokens", layer=0, measure="kl")["value"]
        )
    found = pick(table, lens="future:1 | back-off", layer=0, measure="agreement")
    assert found["value"] == pytest.approx((choices == predicted).mean())
    assert 0 < found["value"] < 1
    found = pick(table, lens="future:1 | back-off", layer=0, measure="accuracy")
    assert found["value"] == pytest.approx((real == predicted).mean())


def own_choices(model, documents, options):
    """For each document, at every position i read: the model's first choice at i + 1, the tokens at i + 2, i, i - 1."""
    span = Span(options.tokens, 4, 2)
    ids = [first_tokens(model, doc.text, options.tokens).astype(int) for doc, _ in documents]
    chosen = spread([span.room(row) for row in ids], options.positions)
    found = []
    for row, at in zip(ids, chosen, strict=True):
        logits = model.module(torch.tensor(row)[None]).logits.detach()[0]
        found.append((logits.argmax(1).numpy()[at + 5], row[at + 6], row[at + 4], row[at + 3]))
    return found


def test_an_input_lens_stands_beside_the_most_frequent_token(tiny):
    documents, options = texts(), ScoreOptions(every=10, positions=100)
    table = score(tiny, ["input"], documents, options)
    assert pick(table, lens="input", layer=0, measure="accuracy")["value"] == 1
    read = np.concatenate(
        [
            rows.columns["token_id"][rows.columns["layer"] == 0]
            for _, rows, _ in by_hand(tiny, documents, [ms.Lens("input", "input", 0, calibrated=False)], options)
        ]
    )
    often = np.bincount(read).max() / len(read)
    assert pick(table, lens="input | most frequent", layer=0, measure="accuracy")["value"] == pytest.approx(often)
    less = pick(table, lens="input", layer=0, measure="accuracy", against="input | most frequent")
    assert less["value"] == pytest.approx(1 - often)
    assert set(table.columns["measure"]) == {"accuracy"}


def test_text_that_a_lens_was_fitted_on_is_refused_by_its_hash(tiny):
    documents = texts(12)
    fitted = lens(1, about={"documents": [doc.sha256 for doc, _ in documents[:5]]})
    options = ScoreOptions(every=15, positions=60)
    with pytest.raises(RequestError, match=r"5 of the 12 documents.*'moved 1'.*--unseen"):
        score(tiny, ["logit", fitted], documents, options)
    table = score(tiny, [fitted], documents, ScoreOptions(every=15, positions=60, unseen=True))
    assert set(table.columns["documents"]) == {7}
    assert any("5 of 12 documents are left out" in note for note in table.notes)
    assert pick(table, lens="moved 1", layer=0, measure="kl")["value"] == pytest.approx(
        pick(score(tiny, [lens(1)], documents[5:], options), lens="moved 1", layer=0, measure="kl")["value"]
    )
    with pytest.raises(RequestError, match="5 clusters"):
        score(tiny, [fitted], documents[:10], ScoreOptions(unseen=True))


def test_documents_that_chose_a_fit_are_named(tiny):
    documents = texts(12)
    chosen = lens(1, about={"held_out_documents": [doc.sha256 for doc, _ in documents[:5]]})
    table = score(tiny, [chosen], documents, ScoreOptions(every=30, positions=40))
    assert any(note.startswith("5 of them were held out") for note in table.notes)
    assert not any("does not say" in note for note in score(tiny, ["logit"], documents, ScoreOptions(every=30)).notes)
    assert any("'moved 1' does not say which text" in note for note in table.notes)


def test_few_clusters_have_no_intervals_and_short_documents_are_counted(tiny):
    documents = [*texts(4), (document(9, "a"), "x"), (document(10, "of the"), "y")]
    table = score(tiny, ["logit"], documents, ScoreOptions(every=10, positions=50))
    assert np.isnan(table.columns["low"]).all()
    assert np.isfinite(table.columns["value"]).all()
    assert any("2 of 6 documents are too short" in note for note in table.notes)
    assert any("too few for intervals" in note for note in table.notes)
    with pytest.raises(RequestError, match="Give longer text"):
        score(tiny, ["logit"], documents[4:], ScoreOptions())


def test_tokenised_documents_and_files_give_the_same(tiny, tmp_path):
    documents, options = texts(8), ScoreOptions(every=10, positions=50)
    path = tmp_path / "held-out.txt"
    path.write_text("\n<|endofdoc|>\n".join(doc.text for doc, _ in documents))
    held = [Held(cluster, np.array(tiny.tokenizer.encode(doc.text).ids), doc.sha256) for doc, cluster in documents]
    tables = [score(tiny, ["logit"], source, options) for source in (documents, held, path, str(path))]
    for table in tables[1:]:
        for name in ("value", "low", "high"):
            assert table.columns[name] == pytest.approx(tables[0].columns[name], abs=1e-6, nan_ok=True)
        assert table.provenance.corpus == tables[0].provenance.corpus
    assert tables[0].provenance.settings["positions"] == 50
    assert tables[0].provenance.settings["tokens"] == 256


def test_clusters_are_the_works_of_a_jsonl(tiny, tmp_path):
    import json

    path = tmp_path / "works.jsonl"
    rows = [{"text": doc.text, "work": f"w{n // 2}", "author": f"a{n // 4}"} for n, (doc, _) in enumerate(texts(24))]
    path.write_text("\n".join(map(json.dumps, rows)))
    counted = [
        set(score(tiny, ["logit"], path, ScoreOptions(every=30, positions=48, cluster=field)).columns["clusters"])
        for field in (None, "author")
    ]
    assert counted == [{12}, {6}]


def test_the_causal_score_is_part_of_it_when_asked(tiny):
    documents = texts(7)
    table = score(tiny, ["logit", "input"], documents, ScoreOptions(layers=[10, 20], positions=20, causal=True))
    assert {"spearman", "effect"} <= set(table.columns["measure"])
    assert pick(table, lens="logit", layer=20, measure="spearman")["unit"] == "1"
    assert any(note.startswith("causal score") for note in table.notes)
    with pytest.raises(RequestError, match="--corpus"):
        score(tiny, ["logit"], None, ScoreOptions(causal=True, prompts=["x.json"]))


def test_a_module_in_training_is_scored_without_dropout(tmp_path):
    module, tokenizer, _ = build("gpt2")
    model = ms.load((module, tokenizer))
    path = tmp_path / "null.json"
    path.write_text(json.dumps({"items": [{"prompt": SENTENCES[n], "intermediates": ["a", "was"]} for n in range(3)]}))
    options = ScoreOptions(positions=40, prompts=[path], causal=True)
    wanted = ["logit", "input"]
    quiet = score(model, wanted, texts(7), options)
    module.train()
    again = score(model, wanted, texts(7), options)
    assert module.training
    assert {"kl", "accuracy", "spearman", "pass@10 null"} <= set(quiet.columns["measure"])
    np.testing.assert_array_equal(quiet.columns["value"], again.columns["value"])


def test_readers_are_made_once_for_all_documents_and_prompts(tiny, tmp_path, monkeypatch):
    made, jobs = [], []
    make = reading.READERS["input"]
    monkeypatch.setitem(reading.READERS, "input", lambda anatomy: made.append(1) or make(anatomy))
    read = reading.read
    monkeypatch.setattr(reading, "read", lambda *a, job, **more: jobs.append(job) or read(*a, job=job, **more))
    score(tiny, ["input"], texts(7), ScoreOptions(every=10, positions=40))
    assert made == [1]
    assert jobs == [40 * 4] * 7, "positions and layers of all documents decide whether to compile"
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"items": [{"prompt": text, "intermediates": ["a"]} for text in SENTENCES]}))
    score(tiny, ["input"], None, ScoreOptions(prompts=[path]))
    assert made == [1, 1]


def test_a_baseline_that_is_told_the_answer_is_left_out_or_said_to_be(tiny):
    table = BackOff(*(torch.tensor([3]) for _ in range(4)), 5, tiny.anatomy.vocabulary)
    wide = {0: Transport(torch.randn(32, 128, generator=torch.Generator().manual_seed(4)))}
    for back, beside, told in (
        (1, {"token", "tokens", "most frequent"}, "tokens"),
        (2, {"token", "tokens", "back-off", "most frequent"}, "tokens"),
        (4, {"token", "tokens", "back-off", "most frequent"}, ""),
        (0, {"token", "tokens", "most frequent"}, "token and tokens"),
    ):
        kept = {"reader": "input", "offset": -back, "layers": (0,)}
        bases = lens(3, source="token", **kept), Lens("", transports=wide, source="tokens", **kept)
        lag = lens(3, name="lag", reader="input", offset=-back, baselines=bases, back_off=table)
        scored = score(tiny, [lag], texts(), ScoreOptions(every=15, positions=60))
        names = set(scored.columns["lens"]) | set(scored.columns["against"])
        assert {name.removeprefix("lag | ") for name in names if "|" in name} == beside
        notes = [note.partition(":")[0] for note in scored.notes if "not what a lens must beat" in note]
        assert notes == ([f"lag | {told}"] if told else [])


def test_what_cannot_be_scored_is_refused_before_anything_runs(tiny, tmp_path):
    with pytest.raises(RequestError, match="none of the lenses has a causal score"):
        score(tiny, ["input"], texts(7), ScoreOptions(causal=True))
    for seed in (-1, 1 << 63):
        with pytest.raises(RequestError, match=f"seed is {seed}"):
            score(tiny, ["logit"], texts(7), ScoreOptions(seed=seed))
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"items": [{"prompt": "a", "intermediates": ["a"]}]}))
    with pytest.raises(RequestError, match=r"'base' reads input rows.*no pass@k"):
        score(tiny, [lens(3, name="base", source="token", layers=(0,))], None, ScoreOptions(prompts=[path]))


def test_progress_ends_with_the_last_position(tiny):
    told = []
    score(tiny, ["logit"], texts(7), ScoreOptions(every=30, positions=40), progress=lambda *a: told.append(a))
    assert told[-1] == ("positions", 40, 40)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@given(room=st.lists(st.integers(0, 300), min_size=1, max_size=40), total=st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_positions_are_spread_evenly(room, total):
    chosen = spread(room, total)
    counts = [len(at) for at in chosen]
    assert sum(counts) == min(total, sum(room))
    fair = [count for count, size in zip(counts, room, strict=True) if count < size]
    assert not fair or max(counts) <= min(fair) + 1, "no document gets two more than one that has room left"
    for at, size in zip(chosen, room, strict=True):
        assert (np.diff(at) > 0).all()
        if len(at):
            assert at[0] >= 0
            assert at[-1] < size
            gaps = np.diff(np.r_[at, at[0] + size])
            assert gaps.max() - gaps.min() <= 1, "at equal distances, around the end included"
    assert all((a == b).all() for a, b in zip(chosen, spread(room, total), strict=True))


def test_a_few_positions_of_many_documents_are_read_here_and_there():
    chosen = spread([100] * 1000, 50)
    read = [number for number, at in enumerate(chosen) if len(at)]
    assert np.diff(read).max() == np.diff(read).min() == 20
    places = np.array([chosen[number][0] for number in read])
    assert np.histogram(places, 5, (0, 100))[0].min() >= 5


def test_a_great_many_documents_are_thinned_evenly(tiny):
    from midstream.run import score_text

    many = ((document(n, f"{SENTENCES[0]} {n}"), str(n)) for n in range(100))
    found = score_text.find(tiny, many, [lens(1)], Span(256, 4, 1), most=10)
    assert found.usable == 100
    assert [held.cluster for held in found.held] == [str(n) for n in range(0, 100, 8)]


def test_of_a_long_text_only_the_beginning_is_tokenised(tiny, monkeypatch):
    text = " ".join(SENTENCES) * 50
    whole = tiny.tokenizer.encode(text).ids
    asked = []
    encode = tiny.tokenizer.encode
    monkeypatch.setattr(
        tiny.tokenizer, "encode", lambda given, **more: asked.append(len(given)) or encode(given, **more)
    )
    assert first_tokens(tiny, text, 40).tolist() == whole[:40]
    assert max(asked) < len(text) / 4
    assert first_tokens(tiny, text, 10**6).tolist() == whole
