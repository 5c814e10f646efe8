"""Readings in notebooks: as their hosts put them on a page, without scripts, and the notebooks of examples/."""

from __future__ import annotations

import html as markup
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lens_sample
import numpy as np
import pytest
from view.chromium import cell, grid
from view.sample import reading, several
from view.score_sample import score
from view.summary_sample import summary

import midstream as ms
from midstream.handle import Score, Summary
from midstream.view import chart, html

FOLDER = Path(__file__).parent.parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.ipynb"))
TABLE, TRACKS = reading(tokens=12, layers=8)
FRAGMENT = html.fragment(TABLE, tracks=TRACKS)

# How each host puts an output on its page: JupyterLab replaces the scripts, VS Code appends copies and removes them.
COPY = "const copy = document.createElement('script'); copy.text = old.textContent; old.type && (copy.type = old.type);"
HOSTS = {
    "lab": COPY + "old.parentNode.replaceChild(copy, old);",
    "code": COPY + "place.appendChild(copy).parentNode.removeChild(copy);",
}
LOUD = """
body { text-align: right } * { line-height: 3 } .out table, .out td, .out th { border: 9px solid; padding: 2em }
.out h2, .out p { font-size: 60px; margin: 2em } .out dt { float: left; width: 20% } .out dd { padding-left: 20% }
.out ol:not(.list-inline), .out ul:not(.list-inline) { padding-left: 4em } .out button { text-transform: uppercase }
"""


def host(name: str, body: str = "", style: str = "") -> str:
    """A page whose ``show(place, source)`` puts an output where the host of that name would, and one output."""
    source = json.dumps(FRAGMENT).replace("</", "<\\/")
    return f"""<!doctype html><meta charset="utf-8"><style>{style}</style><body {body}>
<h2 class="ms-title">Mine</h2><div class="out"></div><div class="out"></div>
<script>
const source = {source};
const outs = document.querySelectorAll(".out");
function show(place) {{
  place.innerHTML = source;
  for (const old of Array.from(place.querySelectorAll("script"))) {{ {HOSTS[name]} }}
}}
show(outs[0]);
</script>"""


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_may_show_several_readings_and_the_same_again(opened, name):
    page = opened(host(name))
    first = page.evaluate_handle("document.querySelector('[data-midstream]').grid")
    page.evaluate("show(outs[1])")
    page.evaluate("show(outs[1])")
    page.wait_for_function("document.querySelectorAll('[data-midstream=open]').length === 2")
    assert page.locator(".ms-scroller").count() == 2
    assert grid(page, "g") is not None
    assert page.evaluate("old => old === document.querySelector('[data-midstream]').grid", first)
    for at in (0, 1):
        page.locator(".ms-scroller").nth(at).hover(position=cell(page, 2, 3))
        assert page.locator(".ms-box").nth(at).is_visible()
        assert "layer 6" in page.locator(".ms-box").nth(at).inner_text()


@pytest.mark.parametrize(
    ("body", "theme"),
    [
        ('data-jp-theme-light="true"', "light"), ('data-jp-theme-light="false"', "dark"),
        ('class="vscode-light"', "light"), ('class="vscode-dark"', "dark"),
        ('class="vscode-high-contrast"', "dark"), ('class="vscode-high-contrast vscode-high-contrast-light"', "light"),
        ("", "light"),
    ],
)  # fmt: skip
def test_the_grid_has_the_theme_of_its_host_whatever_the_system_says(opened, body, theme):
    system = "dark" if theme == "light" else "light"
    page = opened(host("lab", body), color_scheme=system)
    assert grid(page, "g.colours.name") == theme
    ground = page.locator(".ms").evaluate("e => getComputedStyle(e).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 20, 27)"}[theme]


def test_the_grid_follows_when_the_host_changes_its_theme(opened):
    page = opened(host("lab", 'data-jp-theme-light="true"'))
    page.evaluate("show(outs[1])")
    page.wait_for_function("document.querySelectorAll('[data-midstream=open]').length === 2")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    themes = "[...document.querySelectorAll('[data-midstream]')].map((place) => place.grid.colours.name)"
    assert page.evaluate(themes) == ["dark", "dark"]
    page.locator(".ms-theme").first.click()
    assert page.evaluate(themes) == ["light", "dark"]


def test_host_and_grid_leave_each_others_look_alone(opened):
    """Every part of the grid has the same place and size under a style that reaches for all of them."""
    parts = """[...document.querySelector("[data-midstream]").shadowRoot.querySelectorAll(".ms *")].map((part) => {
        const [own, home] = [part.getBoundingClientRect(), part.closest(".ms").getBoundingClientRect()];
        return [part.getAttribute("class"), [own.x - home.x, own.y - home.y, own.width, own.height]];
    }).filter(([name, place]) => place[2] && name !== "ms-unseen")"""
    seen = []
    for style in ("", LOUD):
        page = opened(host("lab", style=style))
        page.locator(".ms-scroller").click(position=cell(page, 2, 3))
        page.mouse.move(1, 1)
        assert page.locator(".ms-box").is_visible()
        seen.append(page.evaluate(parts))
    assert len(seen[0]) > 100
    (names, places), (others, there) = (zip(*parts, strict=True) for parts in seen)
    assert names == others
    assert np.allclose(places, there, atol=0.1)
    assert page.locator("h2.ms-title").first.evaluate("e => getComputedStyle(e).fontSize") != "13px"


def test_keys_that_the_grid_takes_do_not_reach_the_host(opened):
    page = opened(host("code"))
    page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
    page.locator(".ms-scroller").focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter", "d", "d", "F2"):
        page.keyboard.press(key)
    assert page.evaluate("heard") == ["F2"]
    # JupyterLab listens before the page does, and asks for this
    assert page.evaluate("document.activeElement.closest('[data-lm-suppress-shortcuts=true]') !== null")


def test_the_keyboard_works_there_too(opened):
    page = opened(html.fragment(several(tokens=12, layers=8)[0]))
    page.get_by_role("tab").first.focus()
    for lens in ("future:1", "input"):
        page.keyboard.press("ArrowRight")
        assert grid(page, "g.grid.lens") == lens
    before = grid(page, "g.over.toDataURL()")
    page.locator(".ms-scroller").focus()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert grid(page, "g.over.toDataURL()") != before  # where the cursor is


def test_without_scripts_and_styles_a_readable_table_remains():
    """What GitHub and an untrusted notebook leave of it."""
    left = re.sub(r"<(script|style)\b.*?</\1>", "", FRAGMENT, flags=re.DOTALL)
    assert re.sub(r"<div[^>]*>|</div>|\n", "", left) == html._plain(TABLE)
    assert "display" not in left


def test_what_every_output_repeats_is_small():
    repeated = len(json.dumps(html.script() + html.style()))
    assert len(json.dumps(FRAGMENT)) > repeated
    assert repeated < 75_000


@pytest.mark.parametrize("made", ["patch", "score", "summary"])
def test_other_results_show_in_a_notebook_what_they_print(tiny, monkeypatch, capsys, made):
    result = {
        "patch": lambda: ms.patch(tiny, "The capital of France is", "The capital of London is", "a", every=10),
        "score": lambda: Score(**vars(score())),
        "summary": lambda: Summary(**vars(summary())),
    }[made]()
    monkeypatch.setenv("COLUMNS", str(html.WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")
    result.show()
    shown = result._repr_html_()
    assert markup.unescape(re.sub(r"<[^>]*>", "", shown)).split() == capsys.readouterr().out.split()
    assert not re.search(r"<(?!/?(pre|span)\b)", shown)


def test_results_print_as_a_line(tiny):
    read = ms.read(tiny, "The capital of France is", lens=["logit", "input"], every=10)
    assert repr(read) == f"<Reading: {tiny.name} · logit, input lenses · 30 blocks · 5 tokens · exact>"
    assert repr(Score(**vars(score()))).startswith("<Score: ")
    sample = ms.generate(tiny, "The", tokens=3)
    assert "0 tokens" in repr(sample)
    assert sample.pieces == []
    for one in (tiny, lens_sample.sample(tiny)):
        assert len(repr(one)) < 500


def exported(notebook, folder, **variables) -> str:
    """The notebook run and exported as a user does it, by a kernel that knows no settings of whoever runs the tests."""
    own = {f"{name}_DIR": str(folder / name) for name in ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME")}
    environment = os.environ | own | {"IPYTHONDIR": str(folder / "ipython")} | variables
    offline = [f"--HTMLExporter.{name}_url=" for name in ("require_js", "mathjax", "mermaid_js")]
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", *offline, "--output-dir", str(folder)]
    done = subprocess.run([*command, str(notebook)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return (folder / notebook.with_suffix(".html").name).read_text(encoding="utf-8")


@pytest.mark.parametrize("notebook", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_its_export_shows_the_grids_without_network(notebook, opened, tmp_path, tiny_folder):
    page = opened(exported(notebook, tmp_path, MIDSTREAM_MODEL=str(tiny_folder)))
    source = json.loads(notebook.read_text())
    assert not [one for one in source["cells"] if one.get("outputs") or one.get("execution_count")]
    count, start = {"read": (2, chart.DEFAULT), "edit": (1, "kl_unedited")}[notebook.stem]
    assert page.locator("[data-midstream]").count() == count
    page.wait_for_function(f"document.querySelectorAll('[data-midstream=open]').length === {count}")
    for at in range(count):
        assert page.locator(".ms-controls").nth(at).locator("select").first.input_value() == start
        page.locator(".ms-scroller").nth(at).hover(position=cell(page, 2, 1))
        assert page.locator(".ms-box").nth(at).locator(".ms-top li").count() == 10
        assert page.locator("canvas").nth(2 * at).bounding_box()["height"] > 300


@pytest.mark.default_model
@pytest.mark.parametrize(
    ("notebook", "claims"),
    [
        ("read", [r"layer 23 +rank +5,[67]\d\d ", r"layer 24 +rank +1[89]\d ", r"layer 27 +rank +3 ",
                  r"layer 28 +rank +1 "]),
        ("edit", [r"0\.3 +' Paris'", r"0\.5 +' London'", r"1\.0 +' still'", r"without +' Paris", r"with +' London",
                  r"largest: −6\.0\d at layer 20, position 3; an unrelated text's stream there: −5\.[56]\d"]),
    ],
)  # fmt: skip
def test_an_example_says_what_the_default_model_does(notebook, claims, tmp_path):
    """The numbers in the notebook's texts stand in what its cells give."""
    shown = markup.unescape(re.sub(r"<[^>]*>", "", exported(FOLDER / f"{notebook}.ipynb", tmp_path)))
    assert [claim for claim in claims if not re.search(claim, shown)] == []
