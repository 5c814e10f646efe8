"""The app over the tiny model, and its numbers against those of ``midstream read``."""

from __future__ import annotations

import json
import math
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from fastapi.testclient import TestClient

import midstream as ms
from midstream.__main__ import main
from midstream.cli.handed import Handed
from midstream.model.load import load
from midstream.run.desk import Desk
from midstream.run.desk_sample import continued
from midstream.sample.generate import Options
from midstream.web.app import app
from midstream.web.ask import EditAsk, ReadAsk
from midstream.web.guard import Guard, Rules
from midstream.web.readings import KEPT

TEXT = "a king was there and asked why"


@pytest.fixture(scope="module")
def client(tiny_folder):
    desk = Desk(load, {str(tiny_folder): str(tiny_folder), "nowhere/at-all": "nowhere/at-all"}, most=200)
    with TestClient(Guard(app(Handed(desk)), Rules(frozenset({"testserver"}), most=100_000))) as client:
        yield client


def events(response):
    """[(event, data)] of a stream."""
    found = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and line[0] != ":")
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def read(client, **ask):
    return events(client.post("/api/read", json={"text": TEXT, **ask}))


def code(client, **ask):
    return client.post("/api/code", json={"text": TEXT, **ask}).json()


def test_the_desk_says_what_there_is(client, tiny_folder):
    found = client.get("/api/desk").json()
    assert found["models"] == [str(tiny_folder), "nowhere/at-all"]
    assert found["model"] == str(tiny_folder)
    assert found["lenses"] == ["logit", "input"]
    assert found["usual"] == ["logit"]
    assert found["blocks"] == 30


def test_a_reading_comes_in_order_and_can_be_kept(client, tiny_folder):
    found = read(client, lenses=["logit", "input"], every=5)
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "opening"
    assert kinds[-1] == "end"
    assert set(kinds[1:-1]) == {"cells"}
    assert len(kinds) > 4
    end = found[-1][1]
    assert f"--model {tiny_folder}" in code(client, lenses=["logit", "input"], every=5)["command"]
    heads = {
        "html": b"<!doctype html>",
        "svg": b"<?xml",
        "png": b"\x89PNG",
        "csv": b"doc_id,",
        "json": b"{",
        "parquet": b"PAR1",
    }
    for form, head in heads.items():
        file = client.get(f"/api/readings/{end['reading']}.{form}")
        assert f'attachment; filename="reading.{form}"' == file.headers["content-disposition"]
        assert file.content.startswith(head)
    assert "kind of file" in client.get(f"/api/readings/{end['reading']}.exe").json()["error"]


EDIT = {"kind": "add", "layers": "12", "positions": "-1", "vector": "embedding", "token": " king", "amount": 0.5}


def same(one, other):
    assert one["columns"].keys() == other["columns"].keys()
    for name, values in one["columns"].items():
        if isinstance(next((value for value in values if value is not None), None), float):
            known = [
                [math.nan if value is None else value for value in part] for part in (values, other["columns"][name])
            ]
            assert known[0] == pytest.approx(known[1], rel=2e-4, abs=2e-4, nan_ok=True), name
        elif name != "top_logprobs":
            assert other["columns"][name] == values, name


@pytest.mark.parametrize(
    "ask", [{"every": 7, "sites": ["resid_post", "mlp_out"]}, {"edits": [EDIT], "lenses": ["logit"]}]
)
def test_numbers_are_those_of_the_command_and_the_python_that_it_names(client, capsys, monkeypatch, ask):
    end = read(client, **ask)[-1][1]
    kept = client.get(f"/api/readings/{end['reading']}.json").json()
    named = code(client, **ask)
    monkeypatch.setattr("sys.argv", [*shlex.split(named["command"]), "--format", "json"])
    with pytest.raises(SystemExit):
        main()
    same(json.loads(capsys.readouterr().out), kept)
    names = {}
    exec(named["python"], names)
    capsys.readouterr()
    same(json.loads(names["reading"].json()), kept)


def test_tokens_can_be_followed_exactly(client):
    end = read(client, lenses=["logit", "input"])[-1][1]
    kept = client.get(f"/api/readings/{end['reading']}.json").json()["columns"]
    found = client.post(
        "/api/follow", json={"reading": end["reading"], "position": 3, "tokens": [kept["target_id"][3]]}
    ).json()
    assert set(found["position"]) == {3}
    exact = {
        (lens, layer): rank for lens, layer, rank in zip(found["lens"], found["layer"], found["rank"], strict=True)
    }
    rows = zip(kept["lens"], kept["layer"], kept["position"], kept["rank"], strict=True)
    expected = {(lens, layer): rank for lens, layer, position, rank in rows if position == 3 and lens == "logit"}
    assert len(expected) == 31
    assert {key: exact[key] for key in expected} == expected
    assert ("input", 4) in exact


def test_the_nearest_positions_are_those_of_the_same_words(client):
    end = read(client, text="a king was there and then a king was there")[-1][1]
    tokens = read(client, text="a king was there and then a king was there")[0][1]["tokens"]
    at = len(tokens) - 1
    found = client.post("/api/near", json={"reading": end["reading"], "position": at, "layer": 1}).json()
    assert [one["cosine"] for one in found] == sorted((one["cosine"] for one in found), reverse=True)
    assert all(-1 <= one["cosine"] <= 1.0001 for one in found)
    assert tokens[found[0]["position"]] == tokens[at]
    wrong = client.post("/api/near", json={"reading": end["reading"], "position": at, "layer": 99})
    assert wrong.status_code == 400
    gone = client.post("/api/near", json={"reading": "nothing", "position": 0, "layer": 1})
    assert gone.status_code == 404


def test_a_continuation_comes_beside_the_one_without_edits(client):
    ask = {"text": TEXT, "tokens": 6, "edits": [{**EDIT, "positions": None}]}
    found = events(client.post("/api/sample", json=ask))
    assert [data["branch"] for kind, data in found if kind == "token"] == ["edited", "plain"] * 6
    assert found[-1][0] == "end"
    plain = events(client.post("/api/sample", json={"text": TEXT, "tokens": 6}))
    ids = [data["token"] for kind, data in plain if kind == "token"]
    assert ids == [data["token"] for kind, data in found if kind == "token" and data["branch"] == "plain"]
    anchored = events(client.post("/api/sample", json={"text": TEXT, "tokens": 3, "anchor": "15:0.9"}))
    assert {data["branch"] for kind, data in anchored if kind == "token"} == {"edited", "plain"}
    wrong = events(client.post("/api/sample", json={"text": TEXT, "anchor": "99:0.1"}))[-1]
    assert wrong[0] == "error"


def test_two_readings_are_compared_where_their_tokens_agree(client):
    one = read(client, text="a king was there and asked why")[-1][1]["reading"]
    other = read(client, text="a king is there and asked why")[-1][1]["reading"]
    path = f"/api/differences/{one}/{other}"
    found = client.get(path).json()
    assert found["layers"] == list(range(31))
    assert 0 < found["positions"] < len("a king was there and asked why")
    assert len(found["measures"]["logprob"]["one"]) == 31
    same_ = client.get(f"/api/differences/{one}/{one}").json()
    for measure in same_["measures"].values():
        assert measure["one"] == measure["other"]
    kept = client.get(f"{path}.json")
    assert "difference.json" in kept.headers["content-disposition"]
    assert kept.json()["provenance"]["settings"]["less"]["model"]
    assert any(value is not None for value in kept.json()["columns"]["unedited_logprob"])
    assert {client.get(f"{path}.{form}").status_code for form in ("html", "svg", "png", "csv", "parquet")} == {200}
    lens = read(client, lenses=["input"])[-1][1]["reading"]
    assert "about the same token" in client.get(f"/api/differences/{one}/{lens}").json()["error"]
    assert client.get(f"/api/differences/{one}/gone.csv").status_code == 404


@pytest.mark.parametrize("text", [" king' length=9", ' "; scale=0 site=mlp_out', "a\\' times=9 x='", "x=y|z:w", "\n"])
def test_what_a_person_types_stays_one_value(text):
    """Quoted or not, it can say nothing else of the edit."""
    made = EditAsk(kind="add", layers="3", vector="embedding", token=text, amount=0.5).spec({})
    plain = EditAsk(kind="add", layers="3", vector="embedding", token="a", amount=0.5).spec({})
    keys = [piece.partition("=")[0] for piece in shlex.split(made)]
    assert keys == [piece.partition("=")[0] for piece in shlex.split(plain)]
    pieces = dict(piece.split("=", 1) for piece in shlex.split(made))
    assert re.sub(r"\\([:|])", r"\1", pieces["add"]) == f"embedding:{text}"
    patch = dict(piece.split("=", 1) for piece in shlex.split(EditAsk(kind="patch", layers="3", text=text).spec({})))
    assert (len(patch), patch["patch"]) == (3, text)


def test_the_model_that_an_ask_names_answers_it(tiny_folder, tiny):
    """Another page may have chosen another since."""
    loaded = []

    def two(name):
        loaded.append(name)
        return replace(load(tiny_folder), name=name)

    desk = Desk(two, {"a": "a", "b": "b"})
    with TestClient(app(Handed(desk))) as client:
        client.post("/api/model", json={"model": "b"})
        found = read(client, model="a")
        assert [kind for kind, _ in found][:2] == ["loading", "opening"]
        assert found[-1][1]["provenance"]["model"] == "a"
        assert "--model a" in code(client, model="a")["command"]
        assert "no longer in memory" in code(client, model="b")["error"]
        tokens = events(client.post("/api/sample", json={"text": TEXT, "tokens": 1, "model": "b"}))
        assert tokens[0] == ("loading", {"model": "b"})
        assert read(client, model="c")[-1][0] == "error"
    assert loaded == ["a", "b", "a", "b"]


def test_code_follows_the_same_tokens_and_has_the_same_colour(client, tiny, capsys, monkeypatch):
    tokens = [tiny.tokenizer.single(text) for text in (" king", " there", " king")]
    broken = next(token for token in range(tiny.anatomy.vocabulary) if tiny.tokenizer.token_bytes(token) == b"\xff")
    named = code(client, watch=[*tokens, broken, 10**6], statistic="entropy")
    assert "--watch ' king' --watch ' there' --color entropy" in named["command"]
    monkeypatch.setattr("sys.argv", [*shlex.split(named["command"]), "--format", "json"])
    with pytest.raises(SystemExit):
        main()
    assert set(json.loads(capsys.readouterr().out)["watched"]["watch_id"]) == set(tokens)
    names = {}
    exec(named["python"], names)
    assert set(names["reading"].watched["watch_id"].tolist()) == set(tokens)
    assert "ntropy" in capsys.readouterr().out
    assert "--color" not in code(client, statistic="kl_unedited", edits=[EDIT])["command"]


def test_code_loads_the_model_as_the_server_did(tiny_folder):
    desk = Desk(lambda name: load(name, dtype="bfloat16"), {str(tiny_folder): str(tiny_folder)})
    code = Handed(desk, {"dtype": "bfloat16", "engine": None}).code(ReadAsk(text=TEXT))
    assert "--dtype bfloat16" in code["command"]
    assert "engine" not in code["command"] + code["python"]
    names = {}
    exec(code["python"], names)
    assert names["model"].dtype == torch.bfloat16


def test_a_random_vector_is_the_readings_whatever_the_seed(tiny):
    """The seed is for draws: grid and continuation show one edit."""
    edits = ["layers=12 add=random length=3"]
    firsts = [next(continued(tiny, TEXT, Options(1, seed=seed), edits, "")).token for seed in range(4)]
    wanted = ms.read(tiny, TEXT, edits=edits, layers=[30]).columns["top_ids"][-1, 0]
    assert firsts == [wanted] * 4


def test_a_file_is_coloured_as_the_grid_is(client):
    name = read(client, every=30)[-1][1]["reading"]
    files = {client.get(f"/api/readings/{name}.html?statistic={one}").text for one in ("entropy", "rank")}
    assert len(files) == 2
    assert client.get(f"/api/readings/{name}.html?statistic=nothing").status_code == 400


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "add", "vector": "difference", "token": "/etc/passwd"},
        {"kind": "add", "vector": "lens", "lens": "/etc/passwd", "token": " king"},
        {"kind": "add", "layers": "3 add=difference:/etc/passwd:/etc/hosts"},
        {"kind": "scale", "positions": "0 patch=/etc/passwd"},
        {"kind": "scale", "amount": float("1e400")},
    ],
)
def test_an_edit_names_no_file(client, edit, monkeypatch):
    from pathlib import Path

    def opened(self, *_, **__):
        assert "passwd" not in str(self)
        return original(self)

    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", opened)
    body = json.dumps({"text": TEXT, "edits": [{"layers": "12", "amount": 0.5, **edit}]})
    response = client.post("/api/read", content=body, headers={"content-type": "application/json"})
    found = events(response)[-1][1] if response.status_code == 200 else response.json()
    assert "error" in found
    assert "root:" not in response.text


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "a"}, "at least two"),
        ({"text": "a king was there " * 80}, "at most 200 are read"),
        ({"lenses": ["tuned"]}, "unknown lens 'tuned'"),
        ({"lenses": ["../../etc/passwd"]}, "unknown lens"),
        ({"sites": ["resid_mid", "nowhere"]}, "sites.1"),
        ({"every": 0}, "every"),
        ({"every": "2"}, "every"),
        ({"top_k": 10**9}, "top_k"),
        ({"path": "/etc/passwd"}, "path"),
        ({"statistic": "beauty"}, "unknown statistic 'beauty'"),
        ({"text": "x" * 300_000}, "too large"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(client, ask, said):
    response = client.post("/api/read", json={"text": TEXT, **ask})
    found = events(response)[-1][1] if response.status_code == 200 else response.json()
    assert said in found["error"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/api/nothing", None, 404, "/docs describes"),
        ("GET", "/docs/", None, 404, "/docs describes"),
        ("PUT", "/api/read", b"{}", 405, "takes no PUT"),
        ("POST", "/api/read", b"\xff", 400, "no JSON"),
        ("POST", "/api/read", b"[" * 90_000, 400, "no JSON"),
        ("POST", "/api/read", b'{"text": "a', 422, "no JSON"),
        ("POST", "/api/read", b'{"text": "\\ud800"}', 422, "text: "),
        ("POST", "/api/read", b'{"text": "a king", "every": ' + b"9" * 5000 + b"}", 400, "no JSON"),
        ("POST", "/api/sample", b'{"text": "a king", "anchor": "x"}', 422, "anchor: expected a layer and a strength"),
        ("POST", "/api/sample", b'{"text": "a king", "anchor": "' + b"9" * 5000 + b'"}', 422, "at most 13 characters"),
        *(
            ("POST", "/api/read", json.dumps({"text": "a king", "edits": [EDIT | part]}).encode(), 422, said)
            for part, said in (
                ({"layers": "ten"}, "layers: expected layers such as 20, 3-7 or 1,5,-1, not 'ten'."),
                ({"positions": "last"}, "positions: expected positions such as 4"),
            )
        ),
    ],
)
def test_every_refusal_is_a_sentence(client, method, path, body, status, said):
    found = client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert found.status_code == status
    assert said in found.json()["error"]


def test_files_are_made_one_at_a_time(client, monkeypatch):
    """A file of a long reading takes gigabytes on its way."""
    at_once, most = [], []

    def export(table, form, **more):
        at_once.append(form)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.pop()
        return form

    monkeypatch.setattr("midstream.web.app.export", export)
    name = read(client, every=30)[-1][1]["reading"]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: client.get(f"/api/readings/{name}.json").status_code, range(6)))
    assert (found, max(most)) == ([200] * 6, 1)


def test_a_text_too_long_comes_with_its_first_part(client):
    found = read(client, text="a king was there " * 80)[-1][1]
    assert read(client, text=found["first"])[-1][0] == "end"


def test_a_model_that_fails_to_load_leaves_the_one_there_is(client):
    found = client.post("/api/model", json={"model": "nowhere/at-all"})
    assert found.status_code == 400
    assert "nowhere/at-all" in found.json()["error"]
    assert client.post("/api/model", json={"model": "/etc"}).status_code == 400
    assert read(client)[-1][0] == "end"


def test_only_the_last_readings_are_kept(client):
    names = [read(client, every=30)[-1][1]["reading"] for _ in range(KEPT + 1)]
    there = [client.get(f"/api/readings/{name}.json").status_code for name in names]
    assert there == [404] + [200] * KEPT


def test_pages_are_given_by_name_only(client):
    assert "<title>midstream" in client.get("/").text
    assert "MidstreamGrid" in client.get("/static/grid.js").text
    assert "api/read" in client.get("/static/app.js").text
    assert "POST /api/read" in client.get("/docs").text
    assert client.get("/openapi.json").json()["paths"].keys() >= {"/api/read", "/api/desk"}
    for name in ("app.py", "..%2fapp.py", "%2e%2e/app.py", "index.html", "%2fetc%2fpasswd", "grid.js%00"):
        assert client.get(f"/static/{name}").status_code in (404, 400)
