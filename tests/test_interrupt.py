"""Signals that wait."""

from __future__ import annotations

import signal
import threading

import pytest

from midstream.interrupt import undisturbed


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_block(number):
    heard, done = [], []
    before = signal.signal(number, lambda *_: heard.append(bool(done)))
    try:
        with undisturbed():
            signal.raise_signal(number)
            assert not heard
            done.append(True)
        assert heard == [True]
        signal.raise_signal(number)
        assert heard == [True, True]
    finally:
        signal.signal(number, before)


def test_ctrl_c_is_raised_after_the_block(ctrl_c):
    done = []

    def work():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_a_block_that_fails_does_not_swallow_the_signal(ctrl_c):
    def work():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_pass():
    done = []

    def work():
        with undisturbed():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
