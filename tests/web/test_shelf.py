from __future__ import annotations

import base64
import gzip
import json

import pytest
from fastapi.testclient import TestClient

import midstream as ms
from midstream.cli.handed import Handed
from midstream.cli.serve import _stores, _studies
from midstream.errors import RequestError
from midstream.run.desk import Desk
from midstream.view import study_file
from midstream.web.app import app
from midstream.web.guard import Guard, Rules
from tests.view.study_sample import report

TEXTS = ["a king was there and asked why", "the capital of France is Paris", "once upon a time there was a king"]


@pytest.fixture(scope="module")
def client(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    ms.scan(tiny, folder / "corpus.jsonl", folder / "store", lens="logit", every=10, top_k=3)
    (folder / "studies" / "sample").mkdir(parents=True)
    study_file.write(report(), folder / "studies" / "sample")
    shelf = _stores([folder / "store"]), _studies(folder / "studies")
    desk = Desk(lambda _: tiny, {"tiny": "tiny"})
    with TestClient(Guard(app(Handed(desk), *shelf), Rules(frozenset({"testserver"})))) as client:
        client.folder = folder
        yield client


def test_the_shelf_names_what_there_is(client):
    found = client.get("/api/shelf").json()
    assert found["studies"] == ["sample"]
    (store,) = found["stores"]
    assert store["name"] == "store"
    assert store["documents"] == 3
    assert store["lenses"] == ["logit"]
    assert store["finished"]


def test_averages_are_those_of_the_store(client):
    found = client.get("/api/stores/store").json()
    columns = found["columns"]
    expected = ms.open(client.folder / "store").summary().columns
    assert columns["layer"] == expected["layer"].tolist()
    assert columns["value"] == pytest.approx(expected["value"].tolist(), nan_ok=True)


def test_a_document_opens_as_a_grid(client):
    worst = client.get("/api/stores/store/worst/logprob").json()
    assert len(worst) == 3
    packed = client.get(f"/api/stores/store/documents/{worst[0]['doc_id']}").json()["packed"]
    raw = gzip.decompress(base64.b64decode(packed))
    header = json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])
    assert header["grids"][0]["layers"] == [0, 10, 20, 30]


def test_a_report_may_show_itself_and_do_nothing(client):
    found = client.get("/studies/sample/report.html")
    policy = found.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    assert "<h1>" in found.text


@pytest.mark.parametrize(
    "path",
    [
        "api/stores/nothing", "api/stores/..%2fstore", "api/stores/store/worst/1%3Bselect",
        "api/stores/store/documents/9", "api/stores/store/documents/x", "studies/..%2f..%2fetc/report.html",
        "studies/nothing/report.html",
    ],
)  # fmt: skip
def test_what_is_not_there_is_told(client, path):
    found = client.get(f"/{path}")
    assert 400 <= found.status_code < 500
    assert "Traceback" not in found.text


def test_a_store_that_cannot_be_opened_hides_no_other(tiny, client, tmp_path):
    (tmp_path / "gone").mkdir()
    shelf = {"gone": tmp_path / "gone", "store": client.folder / "store"}
    with TestClient(app(Handed(Desk(lambda _: tiny, {"tiny": "tiny"})), shelf)) as other:
        found = other.get("/api/shelf").json()
    assert [store["name"] for store in found["stores"]] == ["store"]
    assert found["broken"][0].startswith("gone: ")


def test_two_folders_of_lenses_of_one_name_are_refused(midstream, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name / "lenses").mkdir(parents=True)
    done = midstream("serve", "--lenses", str(tmp_path / "x" / "lenses"), "--lenses", str(tmp_path / "y" / "lenses"))
    assert done.exit_code != 0
    assert "two folders of lenses are named 'lenses'" in done.stderr


def test_two_stores_of_one_name_and_what_is_none_are_refused(client, tmp_path):
    (tmp_path / "store").symlink_to(client.folder / "store")
    with pytest.raises(RequestError, match="no store"):
        _stores([tmp_path])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "store").symlink_to(client.folder / "store")
    with pytest.raises(RequestError, match="two stores are named"):
        _stores([client.folder / "store", tmp_path / "other" / "store"])
