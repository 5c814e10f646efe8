from __future__ import annotations

import pytest

import midstream as ms
from midstream.errors import RequestError
from midstream.run.text import FOLLOWED, tracks


def test_names_are_few_and_lazy():
    assert ms.__all__ == ["Reading", "load", "read"]
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
    reading.plot("read.svg")
    reading.save("read.parquet")
    assert "<" in reading._repr_html_()
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".svg", ".parquet"}
