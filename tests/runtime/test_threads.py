"""Worker threads: each task runs once a thread, no error is lost, no thread is left behind."""

import ctypes
import gc
import threading

import numpy as np
import pytest

from edgellm.runtime.kernels import _objects
from edgellm.runtime.threads import Workers


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("edgellm-")]


def no_reason() -> None:
    """Nobody waits in these tests."""


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_thread_runs_the_task_once(count: int) -> None:
    workers = Workers(count)
    seen: list[int] = []
    for _ in range(20):
        seen.clear()
        workers.run(seen.append, no_reason)
        assert sorted(seen) == list(range(count))
    workers.close()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_is_raised_and_the_workers_go_on(failing: int) -> None:
    workers = Workers(3)
    gave_up: list[bool] = []

    def task(number: int) -> None:
        if number == failing:
            raise ZeroDivisionError(f"thread {number}")

    with pytest.raises(ZeroDivisionError, match=f"thread {failing}"):
        workers.run(task, lambda: gave_up.append(True))
    assert gave_up
    seen: list[int] = []
    workers.run(seen.append, no_reason)
    assert sorted(seen) == [0, 1, 2]
    workers.close()


def test_close_ends_the_threads() -> None:
    before = len(worker_threads())
    workers = Workers(4)
    assert len(worker_threads()) == before + 3
    workers.close()
    workers.close()
    assert len(worker_threads()) == before


def test_threads_end_with_their_owner() -> None:
    workers = Workers(3)
    threads = worker_threads()
    workers.run(lambda _: None, no_reason)
    del workers
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


class Barrier:
    """The compiled executor on a program whose only step is a kernel made here.

    Threads meet before every step but the first, and between stages.
    """

    def __init__(self, threads: int, steps: int, stages: int = 1) -> None:
        self.threads = threads
        self.stages = stages
        self.state = np.zeros((1 + threads) * 8, np.int64)  # a cache line each
        self.counts = np.zeros((threads, 8), np.int64)
        self.late = 0
        kernel_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.kernel = kernel_type(self.step)  # kept: the program holds its address
        address = ctypes.cast(self.kernel, ctypes.c_void_p).value
        self.program = np.array(
            [[address, 0, 0, 0, stages - 1, 0, 0, 0, int(step > 0)] for step in range(steps)],
            np.int64,
        )
        self.run = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(_objects.executor_address())

    def step(self, _row: int, number: int, _threads: int) -> None:
        """Count, and note if another thread is not in this stage or just behind its barrier."""
        stage, thread = divmod(number, self.threads)
        mine = self.counts[thread, 0]
        self.late += stage != mine % self.stages
        others = self.counts[:, 0]
        if others.min() < mine or others.max() > mine + 1:
            self.late += 1
        self.counts[thread, 0] += 1

    def task(self, number: int) -> None:
        program, state = self.program.ctypes.data, self.state.ctypes.data
        row_bytes = self.program.strides[0]
        self.run(program, len(self.program), row_bytes, number, self.threads, state)

    def give_up(self) -> None:
        self.state[1] = 1


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_no_thread_passes_the_barrier_before_all_have_met(threads: int) -> None:
    """More threads than cores, too; the kernel is Python, so the lock shuffles their order."""
    barrier = Barrier(threads, steps=200)
    workers = Workers(threads)

    workers.run(barrier.task, barrier.give_up)

    assert barrier.late == 0
    assert barrier.counts[:, 0].tolist() == [200] * threads
    assert barrier.state[0] == 199 * threads
    waited = barrier.state[8::8]
    assert (waited >= 0).all()
    assert waited.any()
    workers.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_meet_between_the_stages_of_a_kernel(threads: int) -> None:
    barrier = Barrier(threads, steps=50, stages=3)
    workers = Workers(threads)

    workers.run(barrier.task, barrier.give_up)

    assert barrier.late == 0
    assert barrier.counts[:, 0].tolist() == [150] * threads
    assert barrier.state[0] == (149 * threads if threads > 1 else 0)
    workers.close()


def test_threads_do_not_meet_where_the_program_does_not_say_so() -> None:
    barrier = Barrier(2, steps=5)
    barrier.program[:, -1] = 0

    barrier.task(0)  # alone: it would hang at a barrier

    assert barrier.counts[:, 0].tolist() == [5, 0]
    assert barrier.state[0] == 0


def test_waiting_threads_leave_when_another_gives_up() -> None:
    """A thread that never comes to the barrier does not hang the process."""
    barrier = Barrier(3, steps=5)
    workers = Workers(3)

    def task(number: int) -> None:
        if number == 1:
            raise MemoryError("thread 1")
        barrier.task(number)

    with pytest.raises(MemoryError, match="thread 1"):
        workers.run(task, barrier.give_up)
    assert barrier.counts[:, 0].tolist() == [1, 0, 1]
    workers.close()
