from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from view.summary_sample import POSITIONS, summary

from midstream.errors import RequestError
from midstream.view import measure, summary_table, token_text

LAYERS = summary()
GROUPED = summary(by="position", groups=POSITIONS)
LESS = summary(against="quantised")


def printed(table, width: int, **options) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(summary_table.table(table, **options))
    return out.getvalue().splitlines()


def under(lines: list[str], title: str) -> list[str]:
    """The lines below a title, to the next empty one."""
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(title))
    return lines[start + 1 : next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("table", [LAYERS, GROUPED, LESS, summary(clusters=3), summary(sites=("resid_mid", "mlp_out"))])
def test_no_line_is_wider_than_the_terminal(width, table):
    assert max(map(token_text.width, printed(table, width))) <= width


def test_every_value_stands_in_its_lens_and_layer():
    lines = under(printed(LAYERS, 60, every=1), "KL(output ‖ lens), nats")
    assert lines[0].split() == ["logit", "tuned"]
    columns = LAYERS.columns
    own = columns["measure"] == "kl_final_lens"
    for place, layer in enumerate(range(30, -1, -1), 1):
        found = re.findall(r"(\S+) ±(\S+)", lines[place])
        assert lines[place].split()[0] == str(layer)
        for lens, (value, half) in zip(lines[0].split(), found, strict=True):
            row = own & (columns["lens"] == lens) & (columns["layer"] == layer)
            assert float(value) == pytest.approx(columns["value"][row][0], abs=0.0051)
            assert float(half) == pytest.approx((columns["high"] - columns["value"])[row][0], abs=0.0051)


def test_every_group_has_its_line_its_counts_and_its_values():
    lines = under(printed(GROUPED, 100, every=10), "log p of the real token, nats")
    assert lines[0].split() == ["position", "positions", *(word for n in (0, 10, 20, 30) for word in ("layer", str(n)))]
    assert lines[1].strip() == "logit"
    assert [line.split()[0] for line in lines[2:10]] == list(POSITIONS)
    columns = GROUPED.columns
    own = (columns["measure"] == "logprob") & (columns["lens"] == "logit") & (columns["group"] == "64–127")
    line = lines[2 + POSITIONS.index("64–127")]
    assert re.search(r"64–127 +8,000 in 38 ", line)
    values = [float(text.replace("−", "-")) for text in re.findall(r"(\S+) ±", line)]
    assert values == pytest.approx(
        [columns["value"][own & (columns["layer"] == n)][0] for n in (0, 10, 20, 30)], abs=0.01
    )


@pytest.mark.parametrize("width", [80, 200])
def test_groups_show_as_many_layers_as_fit_without_a_second_part(width):
    lines = printed(GROUPED, width)
    assert sum(line.strip().startswith("entropy, nats") for line in lines) == 1
    heads = under(lines, "entropy, nats")[0]
    assert heads.count("layer") >= {80: 3, 200: 8}[width]
    assert heads.rstrip().endswith("layer 30")
    assert any("layer is shown, counted back from the last" in line for line in lines)


def test_small_groups_of_many_are_counted_not_shown():
    works = tuple(f"work {n}" for n in range(summary_table.GROUPS + 7))
    lines = printed(summary(by="work", groups=works, lenses=("tuned",), layers=2), 120)
    assert any(line.startswith("7 smaller groups are not shown") for line in lines)
    shown = [line.split()[1] for line in under(lines, "entropy, nats") if line.strip().startswith("work ")][1:]
    assert shown == [str(n) for n in range(summary_table.GROUPS)]


def test_differences_say_less_what_and_at_which_layers_they_leave_out_zero():
    lines = printed(LESS, 200)
    assert "less quantised, paired by document" in lines[0]
    away = [line.split("  difference of")[0] for line in under(lines, "differences whose interval leaves out 0")]
    start = next(i for i, line in enumerate(away) if line.strip().startswith("entropy"))
    assert re.match(r" +logit – +12–30", away[start + 1])
    start = next(i for i, line in enumerate(away) if line.strip().startswith("KL(output ‖ lens)"))
    assert re.match(r" +tuned – +0–29", away[start + 2])
    assert any("difference of entropy, nats" in line for line in lines)


def test_small_differences_have_digits_enough_to_be_seen():
    row = next(line for line in under(printed(LESS, 60, every=6), "difference of entropy, nats") if line[:3] == " 18")
    value, half = re.search(r"(\d\.\d+) ±(\d\.\d+)", row).groups()
    assert float(value) > float(half) > 0
    assert measure.digits(np.array([0.0, np.nan, 0.0031, 0.0034])) == 4
    assert measure.digits(np.array([np.nan, 0.0])) == 2
    assert measure.digits(np.array([1e-12])) == 5
    assert measure.digits(np.array([0.012]), 100) == 1


def test_one_lens_has_its_differences_in_one_line_a_measure():
    lines = under(printed(summary(against="b", lenses=("tuned - logit",)), 80), "differences whose interval")
    assert sum("tuned" in line for line in lines) == 0
    assert any(re.match(r" entropy +– +12–30", line) for line in lines)


def test_too_few_clusters_have_values_without_intervals():
    lines = printed(summary(clusters=3), 80)
    assert any("too few clusters for intervals" in line for line in lines)
    assert "±" not in "".join(lines)


def test_a_hostile_field_value_is_one_harmless_line():
    hostile = ("\x1b[31mred\n[bold]x[/bold]", "", " ", "a" * 90)
    lines = printed(summary(by="\x1b]0;x\x07", groups=hostile, layers=2), 120)
    assert "".join(lines).isprintable()
    assert any("␛[31mred⏎[bold]x" in line for line in lines)
    assert any(line.strip().startswith("none ") for line in lines)


def test_notes_are_printed_and_an_ascii_terminal_gets_ascii():
    assert printed(LAYERS, 80)[-1] == LAYERS.notes[0]
    for table in (LAYERS, GROUPED, LESS):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        Console(file=out, width=80).print(summary_table.table(table))
        out.flush()
        out.seek(0)
        assert out.read().isascii()


def test_a_summary_without_rows_is_refused():
    with pytest.raises(RequestError, match="no rows"):
        summary_table.table(LAYERS.pick(np.zeros(len(LAYERS), bool)))


def test_values_and_differences_of_one_table_both_stand():
    both = {name: np.concatenate([values, LESS.columns[name]]) for name, values in LAYERS.columns.items()}
    lines = printed(replace(LAYERS, columns=both), 60)
    assert any(line.strip() == "entropy, nats" for line in lines)
    assert any(line.strip() == "difference of entropy, nats" for line in lines)
