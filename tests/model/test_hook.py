"""Hooks see the first input or output of a module, whatever its shape, and never stay behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from midstream.model.hook import Stop, first, hooked

X = torch.arange(12.0).reshape(2, 3, 2)


@dataclass
class Output:
    last_hidden_state: torch.Tensor
    more: int = 7


class Block(nn.Module):
    """Doubles its input and gives it in one of the forms that blocks use."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, hidden_states, mask=None):
        return self.form(hidden_states * 2)


FORMS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, None, "cache"),
    "nested": lambda x: ((x, 1), 2),
    "mapping": lambda x: {"last_hidden_state": x, "more": 7},
    "dataclass": Output,
}


def left_over(module):
    return sum(len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules())


@pytest.mark.parametrize("form", FORMS)
def test_the_first_output_is_seen_whole_and_can_be_replaced(form):
    block, saw = Block(FORMS[form]), []
    with hooked([(block, "output", saw.append)]):
        output = block(X)
    assert torch.equal(saw[0], X * 2)
    assert torch.equal(first(output), X * 2)
    with hooked([(block, "output", lambda value: value + 1)]):
        changed = block(X)
    assert type(changed) is type(output)
    assert torch.equal(first(changed), X * 2 + 1)
    if form == "dataclass":
        assert changed.more == 7
    if form == "tuple":
        assert changed[1:] == (None, "cache")


def test_a_tensor_output_keeps_its_batch():
    saw = []
    block = Block(FORMS["tensor"])
    with hooked([(block, "output", saw.append)]):
        block(X)
    assert saw[0].shape == X.shape, "output[0] of a tensor is the first text of the batch, not the stream"


@pytest.mark.parametrize("named", [False, True])
def test_the_first_input_is_seen_and_replaced_by_place_or_by_name(named):
    block, saw = Block(FORMS["tensor"]), []
    run = (lambda: block(mask=torch.zeros(1), hidden_states=X)) if named else (lambda: block(X, mask=torch.zeros(1)))
    with hooked([(block, "input", saw.append)]):
        run()
    assert torch.equal(saw[0], X)
    with hooked([(block, "input", lambda value: value + 1)]):
        assert torch.equal(run(), (X + 1) * 2)


def test_stop_ends_the_pass_quietly():
    ran = []
    after = Block(lambda x: ran.append(1))

    def stop(_):
        raise Stop

    model = nn.Sequential(Block(FORMS["tensor"]), after)
    with hooked([(model[0], "output", stop)]):
        model(X)
        pytest.fail("the pass went on")
    assert not ran
    assert left_over(model) == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_removed_whatever_happens(error):
    block = Block(FORMS["tensor"])

    def fail(_):
        raise error

    with pytest.raises(error), hooked([(block, "input", fail), (block, "output", fail)]):
        block(X)
    assert left_over(block) == 0


def test_hooks_are_removed_when_registering_fails():
    block = Block(FORMS["tensor"])
    with pytest.raises(AttributeError), hooked([(block, "output", lambda _: None), (None, "output", lambda _: None)]):
        pass
    assert left_over(block) == 0


def test_a_module_without_tensors_is_passed_over():
    saw = []
    block = Block(lambda _: None)
    with hooked([(block, "output", saw.append)]):
        assert block(X) is None
    assert saw == []
