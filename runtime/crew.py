"""Threads that walk through a program together, call after call, and sleep when no call comes."""

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime import stacks
from edgellm.runtime.kernels import _objects
from edgellm.runtime.memory import ALIGNMENT
from edgellm.runtime.threads import Workers

MAX_THREADS = 256
EXECUTOR_ARGUMENTS, CREW_ARGUMENTS = 6, 4
GENERATION, PROGRAM, STEPS, ROW_BYTES, ASLEEP = range(5)
"""Words of the first line of calls, see ``kernels/_executor.py``."""
DONE_LINE, FIRST_WORKER_LINE = 1, 2
STATE, SEEN, TO_WAKE, FAILED = range(4)
"""Words of a worker's line."""
LOOK_AGAIN_SECONDS = 0.0002
LEADER = 1
"""Of two threads, the one that is not the caller's."""

Words = npt.NDArray[np.int64]
Attend = Callable[[int, int, int, int], None]


class Crew:
    """``threads`` threads, the caller's own included.

    A worker that has done its part of a call looks for the next one for a fraction of a
    millisecond; then it sleeps, and waking it takes some tens of microseconds. A caller whose stack
    is too small for kernels waits while a thread of the crew's own does its part. In a forked
    process new threads take the place of those that it has not.
    """

    def __init__(self, threads: int) -> None:
        """Start the workers.

        Raises:
            ConfigError: threads is out of range.
        """
        if not 1 <= threads <= MAX_THREADS:
            raise ConfigError(f"threads is {threads}; allowed are 1 to {MAX_THREADS}")
        self.threads = threads
        self._start()

    def _start(self) -> None:
        """Begin anew, with threads that are none of an earlier process."""
        threads = self.threads
        self._meeting = _lines(1 + threads)
        self._calls = _lines(1 + threads)
        self._calls[FIRST_WORKER_LINE:, STATE] = 1
        self._meeting_address = self._meeting.ctypes.data
        self._calls_address = self._calls.ctypes.data
        self._execute = _function(_objects.executor_address(), EXECUTOR_ARGUMENTS)
        self._errors: list[BaseException] = []
        if threads > 1:
            self._together = _function(_objects.crew_address(), CREW_ARGUMENTS)
            shared = (self._calls, self._meeting, self._errors)
            self._attend = partial(_attend, self._together, threads, *shared)
        self._workers = Workers(threads)
        self._leader: Workers | None = None

    def run(self, program: int, steps: int, row_bytes: int, *, alone: bool = False) -> None:
        """Run the rows of a program; ``alone``: on the caller's thread.

        Args:
            program: address of the first row.
            steps: number of rows.
            row_bytes: distance of two rows.
            alone: see above.

        Raises:
            BaseException: what a thread raised; no thread is in the program any more.
        """
        if self._workers.are_lost:
            self._start()
        if stacks.is_large():
            self._run(program, steps, row_bytes, alone)
            return
        if self._leader is None:
            self._leader = Workers(2)

        def lead(number: int) -> None:
            if number == LEADER:
                self._run(program, steps, row_bytes, alone)

        self._leader.run(lead, _wait_on)

    def _run(self, program: int, steps: int, row_bytes: int, alone: bool) -> None:
        if alone or self.threads == 1:
            self._execute(program, steps, row_bytes, 0, 1, self._meeting_address)
            return
        self._meeting[0, :2] = 0
        self._calls[0, PROGRAM:ASLEEP] = program, steps, row_bytes
        try:
            self._lead()
            if self._calls[0, ASLEEP]:
                self._wake()
                self._lead()
        except BaseException:
            self._call_off()
            raise
        if self._errors:
            self._call_off()
            raise self._errors.pop()

    def _lead(self) -> None:
        self._together(self._calls_address, 0, self.threads, self._meeting_address)

    def _wake(self) -> None:
        for number in range(1, self.threads):
            line = self._calls[DONE_LINE + number]
            if line[TO_WAKE]:
                line[TO_WAKE] = 0
                self._workers.start(number, self._attend)

    def _call_off(self) -> None:
        """Let all threads leave the call, and wait for them."""
        while True:
            with suppress(KeyboardInterrupt):
                self._meeting[0, 1] = 1
                self._wake()
                generation = self._calls[0, GENERATION]
                expected = generation * (self.threads - 1)
                while self._calls[DONE_LINE, 0] + self._calls[DONE_LINE:, FAILED].sum() < expected:
                    time.sleep(LOOK_AGAIN_SECONDS)
                self._calls[DONE_LINE, 0] = expected
                self._calls[DONE_LINE:, FAILED] = 0
                self._calls[FIRST_WORKER_LINE:, SEEN] = generation
                self._calls[0, ASLEEP] = 0
                return

    def waited_seconds(self) -> npt.NDArray[np.float64]:
        """Return (threads,) how long each thread has waited for the others so far."""
        return self._meeting[1:, 0] / 1e9

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        for workers in (self._workers, self._leader):
            if workers is not None:
                workers.close()


def _attend(
    together: Attend,
    threads: int,
    calls: Words,
    meeting: Words,
    errors: list[BaseException],
    number: int,
) -> None:
    """Take part in calls until none comes for a while. It holds on to the memory meanwhile."""
    try:
        together(calls.ctypes.data, number, threads, meeting.ctypes.data)
    except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
        errors.append(error)
        calls[DONE_LINE + number, FAILED] += 1
        calls[DONE_LINE + number, STATE] = 1
        meeting[0, 1] = 1


def _wait_on() -> None:
    """Let a call that is interrupted come to its end: its thread uses the memory until then."""


def _function(address: int, arguments: int) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)


def _lines(count: int) -> Words:
    """Return zeros of so many cache lines, (count, 8)."""
    raw = np.zeros((count + 1) * ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + count * ALIGNMENT].view(np.int64).reshape(count, -1)
