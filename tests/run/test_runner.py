"""Serial, pool and Ray do the same job; a worker that dies costs nothing but time."""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
from multiprocessing import active_children
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from run_jobs import Answer, Die, Fail, Stay

from midstream.errors import MidstreamError, RequestError
from midstream.model.load import load
from midstream.run import runner as runners
from midstream.run.ray_cluster import _check_answers, _connected, _ray
from midstream.run.runner import ATTEMPTS, ModelSource
from midstream.run.workers import runner

TESTS = str(Path(__file__).parent.parent)


@pytest.fixture(params=["serial", "pool", "ray"])
def workers(request, tiny, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    return runner(tiny, request.param, workers=None if request.param == "serial" else 2)


def test_every_item_is_done_once(workers, tiny):
    done = list(workers.run(Answer(), range(23)))
    assert sorted((item, double) for item, double, _, _ in done) == [(i, 2 * i) for i in range(23)]
    assert {name for _, _, _, name in done} <= {tiny.name, tiny.source}


def test_items_are_taken_no_faster_than_they_are_done(workers):
    taken = 0

    def items():
        nonlocal taken
        for item in range(40):
            taken += 1
            yield item

    results = workers.run(Answer(), items())
    next(results)
    assert taken < 12
    assert len(list(results)) == 39


def test_no_items_no_results(workers):
    assert list(workers.run(Answer(), [])) == []


@pytest.mark.parametrize("workers", ["pool", "ray"], indirect=True)
def test_a_dead_worker_is_replaced(workers, tmp_path):
    assert sorted(workers.run(Die(tmp_path, at=5, times=ATTEMPTS - 1), range(12))) == list(range(12))
    assert len(list(tmp_path.iterdir())) == ATTEMPTS - 1


@pytest.mark.parametrize("workers", ["pool", "ray"], indirect=True)
def test_an_item_that_kills_every_worker_is_named(workers, tmp_path):
    with pytest.raises(MidstreamError, match=f"died {ATTEMPTS} times at 3"):
        list(workers.run(Die(tmp_path, at=3, times=99), range(8)))


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", ["pool"], indirect=True)
def test_ctrl_c_during_the_end_of_a_pool_leaves_no_worker(workers, monkeypatch, ctrl_c):
    monkeypatch.setattr(runners, "GRACE", 0.5)
    before, terminate, told = set(active_children()), SpawnProcess.terminate, []

    def interrupted(child):
        told.append(child)
        signal.raise_signal(signal.SIGINT)
        terminate(child)

    results = workers.run(Stay(), [0, 1, 2, 3])
    assert signal.SIGINT in next(results)
    started = set(active_children()) - before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(SpawnProcess, "terminate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert len(started) == 2
    assert started <= set(told)
    assert not any(child.is_alive() for child in started)
    assert not [thread for thread in threading.enumerate() if "Executor" in type(thread).__name__]


def test_an_error_on_purpose_arrives_as_it_is(workers):
    with pytest.raises(RequestError, match=r"^not this one"):
        list(workers.run(Fail(at=2), range(5)))


def test_a_bug_says_where(workers):
    with pytest.raises((MidstreamError, ZeroDivisionError), match="a bug"):
        list(workers.run(Fail(at=2, bug=True), range(5)))


def test_workers_refuse_another_model(tiny, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    other = ModelSource(tiny.source, tiny.engine, "cpu", "float32", "0" * 64, 1)
    pool = type(runner(tiny, "pool", workers=1))(other, 1)
    with pytest.raises(RequestError, match="give the workers the same files"):
        list(pool.run(Answer(), range(3)))


def test_live_objects_stay_in_their_process(tiny):
    live = load((tiny.module, tiny.tokenizer))
    assert live.source == ""
    with pytest.raises(RequestError, match="save it to a folder"):
        runner(live, "pool")
    assert next(iter(runner(live, "serial").run(Answer(), [1])))[2] == os.getpid()


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("threads", {}, "expected one of serial, pool, ray"),
        ("serial", {"workers": 2}, "need --runner pool or ray"),
        ("pool", {"address": "auto"}, "add --runner ray"),
    ],
)
def test_options_that_do_not_go_together(tiny, name, more, said):
    with pytest.raises(RequestError, match=said):
        runner(tiny, name, **more)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", "no Ray cluster answers"),
        ("nonsense", "expected host:port"),
        ("host:99999999", "no Ray cluster answers"),
        ("auto", "no Ray cluster could be used at auto"),
    ],
)
def test_an_address_where_nothing_answers(tiny, address, said, monkeypatch):
    # a cluster of a test that runs beside this one must not be found, and end this process when it ends
    services = pytest.importorskip("ray._private.services")
    monkeypatch.setattr(services, "find_gcs_addresses", functools.cache(set))
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    with pytest.raises(RequestError, match=said):
        list(runner(tiny, "ray", workers=1, address=address).run(Answer(), [1]))


@pytest.mark.parametrize("said", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"", b"ab"])
def test_an_address_where_something_else_answers(tiny, said):
    def answer():
        connection, _ = server.accept()
        with connection:
            connection.sendall(said)
            connection.recv(100)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RequestError, match=f"what answers at {address} is no Ray cluster"):
            list(runner(tiny, "ray", workers=1, address=address).run(Answer(), [1]))


def test_a_cluster_that_is_there_is_known_by_its_answer():
    with _connected(ray := _ray(), "local"):
        _check_answers(ray.get_runtime_context().gcs_address)


def test_more_workers_than_the_cluster_has_cpus_for(tiny):
    with pytest.raises(RequestError, match="give fewer --workers"):
        list(runner(tiny, "ray", workers=10_000).run(Answer(), [1]))
