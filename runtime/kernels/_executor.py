"""The walk through a program: each thread calls every kernel of the table, meeting at barriers.

Compiled, never run as Python; imported only to compile.
"""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from edgellm.runtime.kernels._intrinsics import (
    call_row,
    fetch_add,
    load,
    load_acquire,
    nanoseconds,
    pause,
    sched_yield,
    usleep,
)

SPINS = 64
"""Looks at the barrier before giving way: some 3 microseconds. A thread that shares its core with
the one it waits for does nothing but delay it; and giving way costs little on a core of its own."""
YIELDS = 2000
"""Times to give way, a millisecond or more, before sleeping: the other thread lost its core."""
SLEEP_US = 50
LINE = 64
"""Bytes of a cache line."""


def meet(meeting: int, arrivals: int, thread: int) -> bool:
    """Wait until ``arrivals`` threads have come here in all; False when one gave up."""
    if fetch_add(meeting, 1) + 1 == arrivals:
        return True
    begin = nanoseconds()
    looks = 0
    while load_acquire(meeting) < arrivals:
        looks += 1
        if looks < SPINS:
            pause()
            continue
        if load_acquire(meeting + 8) != 0:
            return False
        if looks < SPINS + YIELDS:
            sched_yield()
        else:
            usleep(SLEEP_US)
    fetch_add(meeting + LINE * (1 + thread), nanoseconds() - begin)
    return True


def run(program: int, steps: int, row_bytes: int, thread: int, threads: int, meeting: int) -> None:
    """Run ``steps`` rows of a program as thread ``thread`` of ``threads``.

    Args:
        program: address of the first row; a row starts with the address of its kernel, and ends
            with 1 where all threads must have done the steps before it.
        steps: number of rows.
        row_bytes: distance of two rows.
        thread: 0 <= thread < threads; all of them must make this call.
        threads: number of threads.
        meeting: address of ``1 + threads`` cache lines of int64. The first holds arrivals, zero at
            the start, and non-zero to give up; then a line a thread, whose first number grows by
            the nanoseconds that the thread waited.
    """
    arrivals = 0
    for step in range(steps):
        row = program + step * row_bytes
        if threads > 1 and load(row + row_bytes - 8) != 0:
            arrivals += threads
            if not meet(meeting, arrivals, thread):
                return
        call_row(load(row), row, thread, threads)
