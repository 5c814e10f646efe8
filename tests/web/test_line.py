from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import anyio
import pytest

from midstream.web.line import FullError, Line, Place


async def taken(line, steps, into):
    async for found in line.serve(lambda: iter(steps)):
        into.append(found)


def test_one_after_another_and_each_sees_its_place():
    async def main():
        line, gate = Line(), threading.Event()
        order, seen = [], {}

        def steps(name):
            order.append(name)
            if name == "a":
                gate.wait(10)
            yield name

        async def person(name):
            seen[name] = [found async for found in line.serve(lambda: steps(name))]

        tasks = [asyncio.create_task(person("a"))]
        for name in "bc":
            await asyncio.sleep(0.02)
            tasks.append(asyncio.create_task(person(name)))
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        assert seen == {"a": ["a"], "b": [Place(1), "b"], "c": [Place(2), Place(1), "c"]}

    asyncio.run(main())


def test_who_leaves_ends_the_work_and_lets_the_next_one_in():
    async def main():
        line, closed, steps_done = Line(), threading.Event(), []

        def endless():
            try:
                while True:
                    steps_done.append(1)
                    yield 1
            finally:
                closed.set()

        async def leave():
            async with aclosing(line.serve(endless)) as steps:
                async for _ in steps:
                    if len(steps_done) > 3:
                        await asyncio.sleep(10)

        task = asyncio.create_task(leave())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()
        done = len(steps_done)
        assert await line.once(lambda: "next") == "next"
        assert len(steps_done) == done

    asyncio.run(main())


def test_work_whose_results_are_taken_at_once_ends_too_when_its_listener_leaves():
    """As an answer is sent: in a task group whose scope is cancelled, and with no wait between two steps."""

    async def main():
        line, steps_done = Line(), []

        def steps():
            for number in range(500):
                steps_done.append(number)
                yield number

        async def told():
            async with aclosing(line.serve(steps)) as found:
                async for _ in found:
                    pass

        async with anyio.create_task_group() as group:
            group.start_soon(told)
            while len(steps_done) < 5:
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
        assert len(steps_done) < 500
        assert await line.once(lambda: "next") == "next"

    asyncio.run(main())


def test_who_waits_and_leaves_is_out_of_the_line():
    async def main():
        line, gate = Line(), threading.Event()
        first = asyncio.create_task(line.once(lambda: gate.wait(10)))
        await asyncio.sleep(0.02)
        second, seen = asyncio.create_task(taken(line, ["never"], [])), []
        await asyncio.sleep(0.02)
        third = asyncio.create_task(taken(line, ["c"], seen))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0.02)
        gate.set()
        await asyncio.gather(first, third)
        assert seen == [Place(2), Place(1), "c"]

    asyncio.run(main())


def test_a_full_line_says_so_and_an_error_leaves_it():
    async def main():
        line, gate = Line(most=1), threading.Event()
        first = asyncio.create_task(line.once(lambda: gate.wait(10)))
        await asyncio.sleep(0.02)
        with pytest.raises(FullError, match="1 requests are waiting"):
            await line.once(lambda: 1)
        gate.set()
        await first
        with pytest.raises(ZeroDivisionError):
            await line.once(lambda: 1 // 0)
        assert await line.once(lambda: 2) == 2

    asyncio.run(main())
