"""What a study leaves in its folder, and the page over all studies."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from midstream.errors import RequestError
from midstream.store.sealed import seal
from midstream.study.verdict import holm
from midstream.view import study_file
from tests.view.study_sample import report


def test_a_report_is_written_whole_and_the_same_each_time(tmp_path):
    one = report()
    made = study_file.write(one, tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in made}
    charts = [section.chart.name for section in one.sections if section.chart]
    assert names == {"report.md", "report.html", "report.json", *(f"figures/{name}.svg" for name in charts)}
    before = {path: path.read_bytes() for path in made}
    assert study_file.write(one, tmp_path) == made
    assert {path: path.read_bytes() for path in made} == before
    for name in charts:
        assert f"figures/{name}.svg" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["answer"] == one.answer


def test_the_index_holds_every_study_with_holm_s_correction(tmp_path):
    p = []
    for number, name in enumerate(("one", "two", "three")):
        base = report()
        verdict = replace(base.verdicts[0], p=(0.01, 0.04, float("nan"))[number])
        p.append(verdict.p)
        (tmp_path / name).mkdir()
        study_file.write(replace(base, name=name, answer=f"answer {name}", verdicts=(verdict,)), tmp_path / name)
    study_file.index(tmp_path)
    text, page = (tmp_path / "index.md").read_text(), (tmp_path / "index.html").read_text()
    for name in ("one", "two", "three"):
        assert f"answer {name}" in text
        assert f"answer {name}" in page
        assert f"{name}/report.html" in page
    assert holm(p)[0] == 0.02
    assert "0.020" in text


def test_an_index_of_nothing_and_a_changed_report_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no study with a report"):
        study_file.index(tmp_path)
    (tmp_path / "one").mkdir()
    study_file.write(report(), tmp_path / "one")
    file = tmp_path / "one" / "report.json"
    file.write_text(file.read_text().replace("supported", "refuted"))
    with pytest.raises(RequestError, match="checksum"):
        study_file.index(tmp_path)


def test_a_hostile_report_is_a_sentence_and_reads_no_other_file(tmp_path):
    (tmp_path / "one").mkdir()
    study_file.write(report(), tmp_path / "one")
    file = tmp_path / "one" / "report.json"
    good = json.loads(file.read_text())
    good.pop("checksum")
    for change in (
        {"verdicts": []},
        {"verdicts": [good["verdicts"][0] | {"p": "<b>"}]},
        {"verdicts": [good["verdicts"][0] | {"found": "proved"}]},
        {"verdicts": [good["verdicts"][0] | {"estimate": {"value": 1.0}}]},
        {"question": 7},
        {"sections": 3},
    ):
        file.write_bytes(seal(good | change))
        with pytest.raises(RequestError, match="no report of this version"):
            study_file.index(tmp_path)
    file.write_bytes(seal(good))
    name = next(section["chart"]["name"] for section in good["sections"] if section["chart"])
    (tmp_path / "secret").write_text("SECRET")
    figure = tmp_path / "one" / "figures" / f"{name}.svg"
    figure.unlink()
    figure.symlink_to(tmp_path / "secret")
    study_file.index(tmp_path)
    assert "U0VDUkVU" not in (tmp_path / "index.html").read_text()
    assert "SECRET" not in (tmp_path / "index.html").read_text()


def test_what_must_be_known_first_stands_before_every_answer(tmp_path):
    (tmp_path / "one").mkdir()
    caveat = "A quick run: nothing is decided by it."
    study_file.write(replace(report(), caveat=caveat), tmp_path / "one")
    study_file.index(tmp_path)
    for name in ("one/report.html", "one/report.md", "index.html", "index.md"):
        text = (tmp_path / name).read_text()
        assert 0 < text.index(caveat) < text.index(report().answer[:40])


def test_the_verdict_before_an_answer_names_its_claim(tmp_path):
    (tmp_path / "one").mkdir()
    study_file.write(report(), tmp_path / "one")
    study_file.index(tmp_path)
    first = report().verdicts[0]
    for name in ("one/report.html", "one/report.md", "index.html", "index.md"):
        text = (tmp_path / name).read_text()
        assert 0 < text.index(f"{first.found}: {first.claim.name}") < text.index(report().answer[:40]), name
