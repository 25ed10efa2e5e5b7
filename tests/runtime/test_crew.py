"""Threads that make calls together: each call once a thread, and none hangs or comes too late."""

import ctypes
import gc
import threading
import time

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.runtime.crew import Crew
from edgellm.runtime.parts_of_steps import TAIL

STEPS = 5


class Program:
    """Steps that count, for each thread, how often it came by; made of one Python function."""

    def __init__(self, threads: int) -> None:
        self.counts = np.zeros(threads, np.int64)
        self.pause = 0.0
        self.late = 0
        kernel_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.kernel = kernel_type(self.step)
        address = ctypes.cast(self.kernel, ctypes.c_void_p).value
        self.rows = np.array(
            [[address, *[0] * (TAIL + 1), int(step > 0)] for step in range(STEPS)], np.int64
        )

    def step(self, _row: int, thread: int, _threads: int) -> None:
        mine = self.counts[thread]
        self.late += int(self.counts.min() < mine or self.counts.max() > mine + 1)
        self.counts[thread] += 1
        time.sleep(self.pause)

    def run(self, crew: Crew) -> None:
        crew.run(self.rows.ctypes.data, STEPS, self.rows.strides[0])


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_thread_makes_each_call_once(threads: int) -> None:
    crew, program = Crew(threads), Program(threads)
    for call in range(1, 40):
        program.run(crew)
        assert program.counts.tolist() == [call * STEPS] * threads
    assert program.late == 0
    crew.close()


def test_workers_that_fell_asleep_are_woken() -> None:
    crew, program = Crew(3), Program(3)
    for call in range(1, 6):
        program.run(crew)
        assert program.counts.tolist() == [call * STEPS] * 3
        deadline = time.monotonic() + 10
        while not crew._calls[2:, 0].all():  # both sleep
            assert time.monotonic() < deadline
            time.sleep(0.001)
    crew.close()


def test_alone_the_caller_does_everything() -> None:
    crew, program = Crew(2), Program(2)
    program.rows[:, -1] = 0

    crew.run(program.rows.ctypes.data, STEPS, program.rows.strides[0], alone=True)

    assert program.counts.tolist() == [STEPS, 0]
    crew.close()


def test_an_interrupt_ends_the_call_on_all_threads_and_the_next_one_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, program = Crew(3), Program(3)
    wake = crew._wake

    def interrupted() -> None:
        monkeypatch.setattr(crew, "_wake", wake)
        raise KeyboardInterrupt

    monkeypatch.setattr(crew, "_wake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.run(crew)
    before = program.counts.copy()
    assert before[0] == 0  # the caller never came to its part
    assert (before[1:] <= 1).all()  # and the others left where they would have met it

    program.run(crew)
    assert (program.counts - before).tolist() == [STEPS] * 3
    crew.close()


def test_a_worker_that_fails_is_reported_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, program = Crew(3), Program(3)
    together = crew._attend.args[0]
    failures = iter([MemoryError("no memory")])

    def attend(*arguments: int) -> None:
        for error in failures:
            raise error
        together(*arguments)

    faulty = type(crew._attend)(crew._attend.func, attend, *crew._attend.args[1:])
    monkeypatch.setattr(crew, "_attend", faulty)
    with pytest.raises(MemoryError, match="no memory"):
        program.run(crew)
    before = program.counts.copy()

    program.run(crew)
    assert (program.counts - before).tolist() == [STEPS] * 3
    crew.close()


def test_the_threads_end_with_their_owner() -> None:
    before = threading.active_count()
    crew = Crew(3)
    Program(3).run(crew)
    assert threading.active_count() == before + 2
    del crew
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [0, 257])
def test_a_number_of_threads_out_of_range_is_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads}; allowed are 1 to 256"):
        Crew(threads)
