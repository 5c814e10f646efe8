from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from view.score_sample import score

from midstream.errors import RequestError
from midstream.view import score_table, token_text

SCORE = score()


def printed(table, width: int, **options) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(score_table.table(table, **options))
    return out.getvalue().splitlines()


def under(lines: list[str], title: str) -> list[str]:
    """The lines below a title, to the next empty one."""
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(title))
    return lines[start + 1 : next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("clusters", [3, 8, 38])
def test_no_line_is_wider_than_the_terminal(width, clusters):
    assert max(map(token_text.width, printed(score(clusters=clusters), width))) <= width


def test_every_value_stands_in_its_lens_and_layer():
    lines = under(printed(SCORE, 80, every=1), "KL(output ‖ lens), nats")
    assert lines[0].split() == ["logit", "shortcut", "tuned", "future:1"]
    columns = SCORE.columns
    own = (columns["measure"] == "kl") & (columns["against"] == "")
    for place, layer in [*enumerate(range(30, -1, -1), 1), (32, -1)]:
        found = re.findall(r"(\S+) ±(\S+)", lines[place])
        assert lines[place].split()[0] == ("mean" if layer < 0 else str(layer))
        for lens, (value, half) in zip(lines[0].split(), found, strict=True):
            row = own & (columns["lens"] == lens) & (columns["layer"] == layer)
            assert float(value) == pytest.approx(columns["value"][row][0], abs=0.0051)
            assert float(half) == pytest.approx((columns["high"] - columns["value"])[row][0], abs=0.0051)


def test_fewer_layers_are_shown_than_fit_and_it_says_so():
    lines = printed(SCORE, 80)
    shown = [line.split()[0] for line in under(lines, "KL(output")[1:-1]]
    assert shown == [str(layer) for layer in range(30, -1, -2)]
    assert any("every 2nd layer is shown" in line for line in lines)
    seventh = under(printed(SCORE, 80, every=7), "KL(output")[1:-1]
    assert [line.split()[0] for line in seventh] == ["30", "23", "16", "9", "2"]
    assert not any("every" in line for line in printed(score(layers=8), 80))


def test_more_lenses_than_fit_go_on_below():
    lines = printed(SCORE, 36, every=15)
    starts = [i for i, line in enumerate(lines) if line.startswith(" KL(output")][:2]
    assert [lines[i + 1].split() for i in starts] == [["logit", "shortcut"], ["tuned", "future:1"]]


def test_tables_stand_side_by_side_where_there_is_room():
    assert not any("KL(output" in line and "cross-entropy" in line for line in printed(SCORE, 80))
    assert any("KL(output" in line and "cross-entropy" in line for line in printed(SCORE, 200))
    assert len(printed(SCORE, 200)) < 0.6 * len(printed(SCORE, 80))


def test_baselines_stand_beneath_the_lens_they_belong_to():
    lines = under(printed(SCORE, 80), "same first choice as the output, %")
    base = next(line for line in lines if line.strip().startswith("back-off"))
    assert base.index("13.0") > lines[0].index("future:1") - 2
    assert next(line for line in lines if "mean" in line).count("±") == 4


def test_paired_differences_name_the_layers_away_from_zero():
    lines = under(printed(SCORE, 80), "paired differences")
    start = next(i for i, line in enumerate(lines) if line.strip() == "KL(output ‖ lens), nats")
    assert re.search(r"tuned − shortcut +−0\.\d\d ±0\.\d\d +0–29 +–", lines[start + 3])
    start = next(i for i, line in enumerate(lines) if line.strip() == "same first choice as the output, %")
    below, above = re.search(r"future:1 − token .*±\S+ +(\S+) +(\S+)", lines[start + 1]).groups()
    assert below.startswith("0–")
    assert above.endswith("–30")


def test_prompts_show_the_value_its_null_and_the_difference_and_known_items_apart():
    known = {**SCORE.columns}
    known["measure"] = np.array([re.sub("multihop", "multihop, known", name) for name in known["measure"]], object)
    known |= {end: known[end] / 2 for end in ("value", "low", "high")}
    both = {name: np.concatenate([values, known[name]]) for name, values in SCORE.columns.items()}
    lines = printed(replace(SCORE, columns=both), 80)
    titles = [line.strip() for line in lines if "pass@" in line]
    assert titles == [
        f"pass@k, % of the intermediates of 40 items, {which}" for which in ("multihop", "multihop, known")
    ]
    for title, values in ((titles[1], ["10.0", "16.0", "21.0"]), (titles[0], ["20.0", "32.0", "42.0"])):
        table = under([line for line in lines if title == titles[1] or line.strip() != titles[1]], title)
        assert "k = 10" in table[0]
        assert [line.split()[0] for line in table[1:4]] == ["logit", "null", "less"]
        assert re.findall(r"(\S+) ±", table[1]) == values


def test_too_few_clusters_have_values_without_intervals():
    lines = printed(score(clusters=3), 80)
    assert any("too few clusters for intervals" in line for line in lines)
    assert "±" not in "".join(lines)
    uneven = "".join(printed(score(clusters=8), 80))
    assert re.search(r"\[\d+\.\d+, \d+\.\d+\]", uneven)


def test_notes_are_printed_and_an_ascii_terminal_gets_ascii():
    assert printed(SCORE, 80)[-1] == "2 documents were too short."
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=80).print(score_table.table(SCORE))
    out.flush()
    out.seek(0)
    assert out.read().isascii()


def test_a_score_without_rows_is_refused():
    with pytest.raises(RequestError, match="no rows"):
        score_table.table(SCORE.pick(np.zeros(len(SCORE), bool)))
