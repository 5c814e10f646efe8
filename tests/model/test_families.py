"""Every causal language model of transformers: read and right in all its layers, or refused with the reason."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from midstream.errors import RequestError
from midstream.model.families import FAMILIES, family
from tests.tiny import causal_models
from tests.walk import IDS, PAGE, REQUIRED, Walked, chunked, line, page, streams, walk

MODELS = causal_models()


@cache
def committed() -> dict[str, str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def close(one, two):
    """Equal up to rounding, relative to each position's norm."""
    return float(((one - two).norm(dim=-1) / two.norm(dim=-1)).max()) < 1e-5


@pytest.mark.parametrize("model_type", MODELS)
def test_is_read_or_refused_with_its_reason(model_type):
    walked = walk(model_type)
    assert line(model_type, walked) == committed()[model_type], "run python -m tests.walk"
    if isinstance(walked, str):
        assert model_type not in REQUIRED, walked
        assert len(walked.split()) > 4
        return
    short, whole = IDS[:, :11], streams(walked, IDS)
    alone = streams(walked, short)
    assert close(alone, whole[:, :, :11]), "a position saw later ones"
    _padded_equals_unpadded(walked, short, alone, whole)
    in_chunks = chunked(walked, IDS)
    assert in_chunks is None or close(in_chunks, whole), "chunks over the cache differ from the whole text"


def _padded_equals_unpadded(walked: Walked, short, alone, whole):
    padding = torch.full((1, 5), 3)
    ids = torch.cat([IDS, torch.cat([short, short[:, :1].expand(1, 5)], 1)])
    unmasked = streams(walked, ids)
    assert close(unmasked[:, :1], whole), "a pack of texts needs no mask"
    assert close(unmasked[:, 1:, :11], alone), "a pack of texts needs no mask"
    for side, row in (("right", torch.cat([short, padding], 1)), ("left", torch.cat([padding, short], 1))):
        real = slice(0, 11) if side == "right" else slice(5, 16)
        mask = torch.zeros(2, 16, dtype=torch.long)
        mask[0], mask[1, real] = 1, 1
        ids = torch.cat([IDS, row])
        if side == "left" and not family(walked.anatomy.family).left_padding:
            with pytest.raises(RequestError, match="padded on the right"):
                streams(walked, ids, mask=mask)
            continue
        both = streams(walked, ids, mask=mask)
        assert close(both[:, :1], whole), side
        assert close(both[:, 1:, real], alone), side


def test_the_page_lists_every_model_and_counts_them():
    assert list(committed()) == list(MODELS)
    text = PAGE.read_text(encoding="utf-8")
    rows = list(committed().values())
    assert f"{sum('| yes |' in row for row in rows)} of {len(rows)} are read. Last run on: cpu" in text
    assert [row for row in page(rows).splitlines() if row.startswith("| `")] == rows


def test_every_exception_is_of_a_family_that_exists():
    known = {*MODELS, "mllama_text_model", "emu3_text_model"}
    assert set(FAMILIES) <= known
