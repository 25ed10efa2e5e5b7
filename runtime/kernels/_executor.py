"""The walk through a program: each thread calls every kernel of the table, meeting at a barrier.

Compiled, never run as Python; imported only to compile.
"""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from edgellm.runtime.kernels._intrinsics import (
    call_row,
    fetch_add,
    load,
    load_acquire,
    pause,
    sched_yield,
)

SPINS = 2000
"""Looks at the barrier before giving way: some 50 microseconds, longer than any balanced step waits
and shorter than a scheduler's time slice."""


def run(program: int, steps: int, row_bytes: int, thread: int, threads: int, barrier: int) -> None:
    """Run ``steps`` rows of a program as thread ``thread`` of ``threads``.

    Args:
        program: address of the first row; a row starts with the address of its kernel.
        steps: number of rows.
        row_bytes: distance of two rows.
        thread: 0 <= thread < threads; all of them must make this call.
        threads: number of threads.
        barrier: address of two int64, zero at the start: arrivals, and non-zero to give up.
    """
    arrivals = 0
    for step in range(steps):
        row = program + step * row_bytes
        call_row(load(row), row, thread, threads)
        if threads == 1:
            continue
        arrivals += threads
        fetch_add(barrier, 1)
        spins = 0
        while load_acquire(barrier) < arrivals:
            spins += 1
            if spins < SPINS:
                pause()
                continue
            if load_acquire(barrier + 8) != 0:
                return
            sched_yield()
