"""Every command and example in README and docs runs, every link leads somewhere, every name is documented."""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import urllib.request
from pathlib import Path

import pytest
from conftest import SENTENCES
from lens_sample import sample
from typer.main import get_command

from midstream.cli.main import app
from midstream.lens.file.artifact import save
from midstream.lens.score.causal_estimates import UNITS as CAUSAL
from midstream.lens.score.estimates import MEASURES
from midstream.record import READING, SCORE, VERSUS
from midstream.view import study_file
from tests.view.study_sample import report
from tests.web.server import ended, started

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [(page.name, code) for page in PAGES for kind, code in FENCE.findall(page.read_text()) if kind == language]


COMMANDS = sorted({line[2:] for _, code in blocks("console") for line in code.splitlines() if line.startswith("$ ")})


@pytest.fixture(scope="session")
def stores(tmp_path_factory, tiny):
    """Scans of the same 20 texts by two lenses: the folders ``store`` and ``other``."""
    from midstream.corpus.source import open_corpus
    from midstream.lens.read.request import request
    from midstream.run.scan import ScanOptions, scan

    folder = tmp_path_factory.mktemp("stores")
    draw = random.Random(1)
    words = " ".join(SENTENCES).split()
    texts = [{"text": " ".join(draw.choice(words) for _ in range(40)), "author": "ab"[n % 2]} for n in range(20)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    for name, lens in (("store", "logit"), ("other", sample(tiny))):
        wanted = request(tiny, {"lens": [lens], "every": 10, "top_k": 1})
        scan(tiny, open_corpus(folder / "corpus.jsonl"), folder / name, wanted, ScanOptions(characters=2000))
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_folder, tiny, stores):
    """A folder with what the examples name: a model, a lens for it, a speech, two stores; a lens folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path / "lenses"))
    save(sample(tiny), tmp_path / "tuned.safetensors")
    monkeypatch.setenv("MIDSTREAM_MODEL", str(tiny_folder))
    (tmp_path / "my-model").symlink_to(tiny_folder)
    for name in ("store", "other"):
        (tmp_path / name).symlink_to(stores / name)
    (tmp_path / "speech.txt").write_text("Four score and seven years ago our fathers brought forth. " * 12)
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choice(words) for _ in range(100)) for _ in range(30)]
    (tmp_path / "corpus.txt").write_text("\n<|endofdoc|>\n".join(texts))
    held = [" ".join(draw.choice(words) for _ in range(100)) for _ in range(13)]
    (tmp_path / "held-out.txt").write_text("\n<|endofdoc|>\n".join(held))
    items = [{"prompt": text, "intermediates": ["city", "a"], "target": "Paris"} for text in SENTENCES * 2]
    (tmp_path / "studies" / "sample").mkdir(parents=True)
    study_file.write(report(), tmp_path / "studies" / "sample")
    (tmp_path / "prompts.json").write_text(json.dumps({"items": items}))
    return tmp_path


SERVERS = sorted({line for _, code in blocks("sh") for line in code.splitlines() if line.startswith("midstream serve")})


@pytest.mark.parametrize("line", SERVERS)
def test_servers_start_answer_and_end(line, desk):
    (desk / "lenses").mkdir()
    server, address = started(desk, *shlex.split(line)[2:])
    try:
        for path in ("api/desk", "api/shelf"):
            assert json.loads(urllib.request.urlopen(address + path).read())
        server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, -signal.SIGINT, 130)
    finally:
        ended(server)


def test_there_are_examples():
    assert len(COMMANDS) > 10
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, desk, midstream):
    if command.startswith("midstream scan "):  # it makes its own, and must not write into the one that all share
        (desk / "store").unlink()
    done = midstream(*shlex.split(command)[1:])
    assert done.exit_code == 0, done.stderr
    for option in ("--html", "--plot", "--out"):
        words = shlex.split(command)
        if option in words:
            assert (desk / words[words.index(option) + 1]).stat().st_size > 0
    assert "--out" in command or done.stdout


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_example_runs(page, code, desk):
    exec(compile(code, page, "exec"), {})


def test_make_targets_exist():
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for _, code in blocks("sh") for target in re.findall(r"^make (\w+)", code, re.MULTILINE)}
    assert named
    assert named <= rules
    assert {"read", "test", "check", "bench", "help"} <= rules


def test_what_is_in_the_bundle_is_listed():
    """Version, licence and hash of every package of the page, as its lock file has them."""
    packages = json.loads((ROOT / "web" / "package-lock.json").read_text())["packages"]
    table = (ROOT / "docs" / "serve.md").read_text()
    bundled = {path.removeprefix("node_modules/"): one for path, one in packages.items() if path and "dev" not in one}
    assert bundled
    for name, one in bundled.items():
        assert f"| {name} | {one['version']} | {one['license']} | `{one['integrity']}` |" in table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_option_is_documented():
    for name, command in get_command(app).commands.items():
        text = "".join(page.read_text() for page in PAGES)
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in text, f"midstream {name} {option}"


def test_every_column_is_documented():
    text = (ROOT / "docs" / "statistics.md").read_text()
    missing = [column.name for column in (*READING, *VERSUS) if f"`{column.name}`" not in text]
    assert not missing


def test_every_score_column_and_measure_is_documented():
    text = (ROOT / "docs" / "score.md").read_text()
    assert not [column.name for column in SCORE if f"`{column.name}`" not in text]
    assert not [name for name in (*MEASURES, *CAUSAL) if f"`{name}`" not in text]


def test_readme_counts_the_models_as_the_walk_did():
    read, of = re.search(r"(\d+) of (\d+) are read", (ROOT / "docs" / "models.md").read_text()).groups()
    assert f"{read} of the {of} causal families" in (ROOT / "README.md").read_text()
