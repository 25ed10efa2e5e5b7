"""The walk through a program: each thread calls every kernel of the table, meeting at barriers.

Compiled, never run as Python; imported only to compile.
"""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from edgellm.runtime.kernels._intrinsics import (
    call_row,
    exchange,
    fetch_add,
    load,
    load_acquire,
    nanoseconds,
    pause,
    sched_yield,
    store,
    usleep,
)

SPINS = 64
"""Looks at the barrier before giving way: some 3 microseconds. A thread that shares its core with
the one it waits for does nothing but delay it; and giving way costs little on a core of its own."""
YIELDS = 2000
"""Times to give way, a millisecond or more, before sleeping: the other thread lost its core."""
SLEEP_US = 50
LINGER_NS = 200_000
"""How long a worker looks for the next call, giving way all the time: a token of a small model, and
what Python does between two, takes less."""
LINE = 64
"""Bytes of a cache line."""


def wait(word: int, count: int, meeting: int) -> bool:
    """Wait until the word at an address is ``count`` or more; False when a thread gave up."""
    looks = 0
    while load_acquire(word) < count:
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
    return True


def meet(meeting: int, arrivals: int, thread: int) -> bool:
    """Wait until ``arrivals`` threads have come here in all; False when one gave up."""
    if fetch_add(meeting, 1) + 1 == arrivals:
        return True
    begin = nanoseconds()
    if not wait(meeting, arrivals, meeting):
        return False
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


AWAKE, ASLEEP = 0, 1


def crew(calls: int, thread: int, threads: int, meeting: int) -> None:
    """Make a call with all threads (thread 0), or take part in calls (the others).

    Args:
        calls: address of ``1 + threads`` cache lines of int64. The first holds the number of calls
            so far, what to run (see ``run``), and how many workers have to be woken; the second how
            often a worker was done; then a line a worker: ASLEEP or AWAKE, the calls that it has
            seen, and 1 if it has to be woken.
        thread: 0 <= thread < threads.
        threads: 2 or more.
        meeting: see ``run``.
    """
    if thread == 0:
        lead(calls, threads, meeting)
    else:
        attend(calls, thread, threads, meeting)


def lead(calls: int, threads: int, meeting: int) -> None:
    """Make a call; where workers sleep, return at once, to be called again when they were woken."""
    if load(calls + 32) == 0:
        exchange(calls, load(calls) + 1)
        asleep = 0
        for worker in range(1, threads):
            line = calls + LINE * (1 + worker)
            if exchange(line, AWAKE) == ASLEEP:
                store(line + 16, 1)
                asleep += 1
        if asleep > 0:
            store(calls + 32, asleep)
            return
    store(calls + 32, 0)
    run(load(calls + 8), load(calls + 16), load(calls + 24), 0, threads, meeting)
    wait(calls + LINE, load(calls) * (threads - 1), meeting)


def attend(calls: int, thread: int, threads: int, meeting: int) -> None:
    """Take part in calls, until none comes for a while."""
    line = calls + LINE * (1 + thread)
    while True:
        if not comes(calls, load(line + 8)):
            exchange(line, ASLEEP)
            if fetch_add(calls, 0) == load(line + 8) or exchange(line, AWAKE) == AWAKE:
                return  # nothing came, or who calls saw this thread asleep, and will wake it
        store(line + 8, load(line + 8) + 1)
        run(load(calls + 8), load(calls + 16), load(calls + 24), thread, threads, meeting)
        fetch_add(calls + LINE, 1)


def comes(calls: int, seen: int) -> bool:
    """Look for a while whether there is another call."""
    begin: int = nanoseconds()
    looks = 0
    while load_acquire(calls) == seen:
        looks += 1
        if looks < SPINS:
            pause()
        elif nanoseconds() - begin > LINGER_NS:
            return False
        else:
            sched_yield()
    return True
