from __future__ import annotations

import copy

import numpy as np
import pytest

import midstream as ms
from midstream.errors import RequestError
from midstream.run.text import FOLLOWED, tracks


def test_names_are_few_and_lazy():
    kinds = {"Add", "Interpolate", "ProjectOut", "Replace", "Scale", "SetCoordinates"}
    names = {"Edit", "Lens", "Reading", "Score", "Store", "Summary", "fit", "load", "open", "read", "scan", "score"}
    assert {*ms.__all__} == kinds | names | {
        "Patching",
        "Sample",
        "run_study",
        "generate",
        "load_edits",
        "patch",
        "save_edits",
    }
    with pytest.raises(AttributeError, match="load"):
        ms.laod  # noqa: B018  the attribute access is the test


def test_text_or_messages(tiny):
    with pytest.raises(RequestError, match="one of the two"):
        ms.read(tiny)
    with pytest.raises(RequestError, match="one of the two"):
        ms.read(tiny, "a king", messages=[{"role": "user", "content": "a king"}])


def test_chat_template_is_marked(tiny):
    reading = ms.read(tiny, messages=[{"role": "user", "content": "why is the sky blue?"}])
    kinds = reading.positions["kind"].tolist()
    text = "".join(
        reading.vocabulary[token]
        for token, kind in zip(reading.positions["token_id"].tolist(), kinds, strict=True)
        if kind == "text"
    )
    assert text == "why is the sky blue?"
    assert "template" in kinds


def test_tracks_follow_every_leader_exactly(tiny):
    reading = ms.read(tiny, "The capital of France is Paris", every=6, watch=[" Paris"])
    followed = tracks(tiny, reading, reading._request)
    n = len(reading.positions["position"])
    known = {
        (layer, position, token): (rank, logprob)
        for layer, position, token, rank, logprob in zip(
            *(followed[name].tolist() for name in ("layer", "position", "watch_id", "rank", "logprob")), strict=True
        )
    }
    for row in range(len(reading)):
        layer, position = int(reading.columns["layer"][row]), int(reading.columns["position"][row])
        token = int(reading.columns["top_ids"][row, 0])
        rank, logprob = known[layer, position, token]
        assert rank == 1
        assert logprob == pytest.approx(float(reading.columns["top_logprobs"][row, 0]), abs=1e-4)
    assert len(known) == len(followed["rank"]) <= 6 * n * (FOLLOWED + 1)


def test_views_are_written(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reading = ms.read(tiny, "The capital of France is Paris", every=10)
    reading.show()
    assert "France" in capsys.readouterr().out
    page = reading.html("read.html")
    assert (tmp_path / "read.html").read_text(encoding="utf-8") == page
    reading.plot("read.svg", lenses=["logit"], every=2)
    with pytest.raises(RequestError, match="logit"):
        reading.plot("none.svg", lenses=["tunnel"])
    reading.save("read.parquet")
    assert "<" in reading._repr_html_()
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".svg", ".parquet"}


def test_a_page_of_a_model_that_changed_is_refused(tiny_folder):
    model = ms.load(tiny_folder)
    reading = ms.read(model, "The capital of France is Paris", every=10)
    reading.html()
    model.module.get_input_embeddings().weight.data.mul_(-1.5)
    with pytest.raises(RequestError, match="has changed"):
        reading.html()


def test_a_picked_and_a_copied_reading_still_show(tiny):
    reading = ms.read(tiny, "The capital of France is Paris", every=10)
    again = copy.deepcopy(reading)
    assert again._model is None
    assert (again.columns["rank"] == reading.columns["rank"]).all()
    assert "<" in again.html()
    few = reading.pick(reading.columns["position"] < 5)
    assert "<" in few.html()


def test_wrong_options_are_named(tiny):
    with pytest.raises(RequestError, match=r"'layer'.*layers"):
        ms.read(tiny, "a king was", layer=[3])
    with pytest.raises(RequestError, match="no whole number"):
        ms.read(tiny, "a king was", layers="3")
    with pytest.raises(RequestError, match="leave --special out"):
        ms.read(tiny, messages=[{"role": "user", "content": "a king"}], special=True)
    one = ms.read(tiny, "a king was", layers=3, watch=" Paris")
    assert set(one.columns["layer"]) == {3}
    assert set(one.watched["watch_id"]) == {tiny.tokenizer.single(" Paris")}
    assert "a king was" in one.provenance.command


def test_a_layer_picked_whole_still_shows(tiny):
    reading = ms.read(tiny, "The capital of France is Paris", every=10)
    assert "<" in reading.pick(reading.columns["layer"] == 10)._repr_html_()


def test_mistakes_of_a_newcomer_get_a_sentence(tiny, tmp_path):
    with pytest.raises(RequestError, match=r"midstream\.load"):
        ms.read("gpt2", "a king was")
    for wrong in ({"top_k": 2.5}, {"every": "2"}):
        with pytest.raises(RequestError, match=r"2\.5|'2'"):
            ms.read(tiny, "a king was", **wrong)
    with pytest.raises(RequestError, match="bytes"):
        ms.read(tiny, b"a king was")
    with pytest.raises(RequestError, match=r"\.parquet"):
        ms.read(tiny, "a king was", layers=3).save(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "call",
    [
        lambda: ms.fit("gpt2", "corpus.txt"),
        lambda: ms.scan("gpt2", "corpus.txt", "store"),
        lambda: ms.score("gpt2", "logit", "corpus.txt"),
        lambda: ms.generate("gpt2", "a king was"),
        lambda: ms.patch("gpt2", "a king", "a queen", " was"),
    ],
)
def test_a_name_in_the_place_of_a_model_is_a_sentence(call):
    with pytest.raises(RequestError, match=r"a model was given as 'gpt2': expected what midstream\.load returns"):
        call()


def test_nothing_picked_is_nothing_to_show(tiny, tmp_path):
    none = ms.read(tiny, "a king was", layers=3).pick(np.zeros(len(ms.read(tiny, "a king was", layers=3)), dtype=bool))
    for show in (none.html, none._repr_html_, none.show, lambda: none.plot(tmp_path / "x.svg")):
        with pytest.raises(RequestError, match="no rows"):
            show()


def test_fit_gives_a_lens_that_can_be_read_with_and_kept(tiny, tmp_path):
    words = ["once", "upon", "a", "time", "there", "was", "a", "king", "who", "asked", "why", "is", "the", "sky"]
    texts = [" ".join(words[(n * step) % len(words)] for n in range(80)) for step in range(1, 40)]
    (tmp_path / "corpus.txt").write_text("\n<|endofdoc|>\n".join(texts))
    lens = ms.fit(tiny, tmp_path / "corpus.txt", "shortcut", tokens=2500, layers=[10, 30])
    assert set(ms.read(tiny, "a king", lens=lens, layers=[10]).columns["lens"]) == {"shortcut"}
    lens.save(tmp_path / "a.safetensors")
    assert ms.Lens.load(tmp_path / "a.safetensors", tiny).layers == (10, 30)
    with pytest.raises(RequestError, match="unknown option 'tokns'"):
        ms.fit(tiny, tmp_path / "corpus.txt", tokns=3)


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Two stores of the same 14 texts, ``a`` and ``b``, with different statistics."""
    from store.made import Text, drawn, store

    monkeypatch.chdir(tmp_path)
    texts = [Text([(7 * n + 3 * i) % 40 for i in range(30)], {"author": "ab"[n % 2]}) for n in range(14)]
    for seed, name in enumerate("ab"):
        store(tmp_path / name, texts, values=lambda *where, seed=seed: drawn(seed, *where))
    return tmp_path


def test_a_store_is_asked_averaged_and_compared(stores, capsys):
    opened = ms.open("a")
    assert opened.files.header.model == "toy"
    answer = opened.sql("SELECT layer, avg(entropy) AS entropy FROM readings WHERE context >= 4 GROUP BY 1 ORDER BY 1")
    assert answer.names == ("layer", "entropy")
    assert answer.arrow().column("layer").to_pylist() == [0, 1, 2]
    by_layer = opened.summary(measures=["entropy"])
    assert by_layer.columns["value"] == pytest.approx([entropy for _, entropy in answer.rows()], rel=1e-5)
    by_layer.show()
    assert "entropy, nats" in capsys.readouterr().out
    by_layer.plot("s.svg", measures=["entropy"])
    by_layer.pick(by_layer.columns["layer"] == 0).save("s.parquet")
    assert {path.name for path in stores.iterdir()} == {"a", "b", "s.svg", "s.parquet"}
    less = opened.difference("b", "author", measures=["entropy"])
    assert set(less.columns["group"]) == {"a", "b"}
    assert np.allclose(
        less.columns["value"], -ms.open("b").difference(opened, "author", measures=["entropy"]).columns["value"]
    )


def test_an_answer_over_a_damaged_store_warns(stores):
    (stores / "a" / "shards" / "000001.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"1 shard of the store \(1\) is left out"):
        ms.open("a").sql("SELECT 1")


def test_what_a_store_cannot_do_is_one_sentence(stores):
    opened = ms.open("a")
    with pytest.raises(RequestError, match="no store"):
        ms.open("c")
    with pytest.raises(RequestError, match="only read"):
        opened.sql("COPY readings TO 'x.csv'")
    with pytest.raises(RequestError, match=r"'measure'.*measures"):
        opened.summary(measure=["entropy"])
    with pytest.raises(RequestError, match=r"\.parquet"):
        opened.summary().save("s.csv")
