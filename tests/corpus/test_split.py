import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.corpus.split import held_out
from midstream.errors import RequestError

labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shares = st.floats(0, 1)


@settings(deadline=None)
@given(label=labels, seed=st.integers(), low=shares, high=shares)
def test_what_a_smaller_share_holds_out_a_larger_one_does_too(label, seed, low, high):
    low, high = min(low, high), max(low, high)
    assert held_out(label, seed=seed, share=low) <= held_out(label, seed=seed, share=high)


@settings(deadline=None)
@given(label=labels, seed=st.integers())
def test_nothing_of_none_and_all_of_all(label, seed):
    assert not held_out(label, seed=seed, share=0.0)
    assert held_out(label, seed=seed, share=1.0)


def chosen(labels, seed, share):
    return {label for label in labels if held_out(label, seed=seed, share=share)}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_share_is_about_right_over_many_labels(share):
    count, spread = 5000, (5000 * share * (1 - share)) ** 0.5
    for seed in range(3):
        assert abs(len(chosen(map(str, range(count)), seed, share)) - count * share) < 4.5 * spread


def test_seeds_choose_independently():
    both = chosen(map(str, range(4000)), 1, 0.5) & chosen(map(str, range(4000)), 2, 0.5)
    assert abs(len(both) - 1000) < 4.5 * (4000 * 0.25 * 0.75) ** 0.5


def test_another_process_chooses_the_same():
    code = "from midstream.corpus.split import held_out as h; print([h(str(i), seed=7, share=0.3) for i in range(200)])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == str([held_out(str(i), seed=7, share=0.3) for i in range(200)])


def test_the_formula_is_the_documented_one():
    for label in ("emma", "Straße 9", ""):
        digest = hashlib.sha256(f"3:{label}".encode()).hexdigest()
        drawn = int(bin(int(digest, 16))[2:].zfill(256)[:53], 2) / 2**53
        assert not held_out(label, seed=3, share=drawn)
        assert held_out(label, seed=3, share=drawn + 2**-53)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(RequestError, match="expected 0 to 1"):
        held_out("emma", seed=0, share=share)
