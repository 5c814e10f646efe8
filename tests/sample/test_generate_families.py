"""Every family that is read is continued as transformers continues it, with and without a cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from midstream.sample.generate import Options, generate
from tests.sample.test_generate import PROMPT, Letters, theirs
from tests.tiny import causal_models
from tests.walk import walk

NOT_BY_THEM = {"xlstm": "transformers' own generate fails on a tiny one"}


@pytest.mark.parametrize("model_type", causal_models())
def test_greedy_tokens(model_type):
    walked = walk(model_type)
    if isinstance(walked, str):
        return  # refused, with its reason, as tests/model/test_families.py checks
    reader = SimpleNamespace(
        module=walked.module, anatomy=walked.anatomy, device=torch.device("cpu"), context=128, tokenizer=Letters()
    )
    found = [
        [step.token for step in generate(reader, [PROMPT], Options(tokens=6, cached=cached))]
        for cached in (True, False)
    ]
    assert found[0] == found[1]
    if model_type not in NOT_BY_THEM:
        assert found[0] == theirs(walked.module, PROMPT, 6, forced_eos_token_id=None)
