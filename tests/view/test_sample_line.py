"""A generated token and what layers read before it, in whatever width a terminal has."""

from __future__ import annotations

import pytest
from view.sample import HOSTILE, reading

from midstream.view import token_text
from midstream.view.sample_line import header, line

TABLE, _ = reading(tokens=6, layers=12)
LAST = TABLE.pick(TABLE.columns["position"] == 5)


@pytest.mark.parametrize("width", [14, 15, 17, 20, 21, 28, 31, 32, 33, 41, 42, 80, 200])
def test_a_line_fits_the_width_there_is(width):
    for position in range(6):
        rows = TABLE.pick(TABLE.columns["position"] == position)
        best = int(rows.columns["top_ids"][-1, 0])
        for token in (best, *(id for id, text in TABLE.vocabulary.items() if text in HOSTILE)):
            shown = line(rows, token, -12.34, width)
            for text in (header(rows, width), shown):
                assert text.count("\n") == 1
                assert token_text.width(text[:-1]) <= width
            assert shown.rstrip().endswith("✓") == (token == best)
            assert shown.startswith(" −12.34  ")


def test_the_last_layers_stand_in_the_columns_of_the_header():
    best = [LAST.columns["top_ids"][row, 0] for row in range(13)]
    for width, count in ((20, 1), (31, 1), (42, 2), (80, 5), (200, 13)):
        layers = header(LAST, width).split()[-count:]
        assert layers == [str(layer) for layer in range(13)][-count:]
        text = line(LAST, int(best[-1]), -0.5, width)
        cell = 3 if width == 20 else 8
        start = width - cell - 2 if width < 32 else 10 + 12
        for column, token in enumerate(best[-count:]):
            at = start + column * (cell + 2)
            assert (
                text[at : at + cell].rstrip()
                == token_text.fit(token_text.visible(LAST.vocabulary[int(token)]), cell).rstrip()
            )
            assert header(LAST, width)[at] == layers[column][0]
