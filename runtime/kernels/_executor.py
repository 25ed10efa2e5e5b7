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
    prefetch,
    sched_yield,
    stack_words,
    store,
    usleep,
)
from edgellm.runtime.kernels._scalar import share

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
MOST_FIELDS = 64
"""Words of a step at most."""
TAIL = 6
"""Words of a row beside its fields and their growth."""
AHEAD_WORDS = 3
"""Of these those that tell which weights are read next; they come first."""
AHEAD_BYTES = 128 << 10
"""Weights that a waiting thread fetches at most: they have to stay in its level-2 cache."""
LINES_A_LOOK = 4
"""Cache lines that it asks for between two looks at the barrier."""


def wait(word: int, count: int, meeting: int, line: int, end: int) -> int:
    """Wait until the word at an address is ``count`` or more, and fetch cache lines meanwhile.

    Returns:
        The address of the next line to fetch, -1 when a thread gave up.
    """
    looks = 0
    while load_acquire(word) < count:
        looks += 1
        for _ in range(LINES_A_LOOK):
            if line < end:
                prefetch(line)
                line += LINE
        if looks < SPINS:
            pause()
            continue
        if load_acquire(meeting + 8) != 0:
            return -1
        if looks < SPINS + YIELDS:
            sched_yield()
        else:
            usleep(SLEEP_US)
    return line


def meet(meeting: int, arrivals: int, thread: int, line: int, end: int) -> int:
    """Wait until ``arrivals`` threads have come here in all; as ``wait``."""
    if fetch_add(meeting, 1) + 1 == arrivals:
        return line
    begin = nanoseconds()
    line = wait(meeting, arrivals, meeting, line, end)
    if line >= 0:
        fetch_add(meeting + LINE * (1 + thread), nanoseconds() - begin)
    return line


def run(program: int, steps: int, row_bytes: int, thread: int, threads: int, meeting: int) -> None:
    """Run ``steps`` rows of a program as thread ``thread`` of ``threads``.

    Args:
        program: address of the first row, of int64: the fields of the step, of which the first is
            the address of its kernel; the address, the rows and the bytes a row of weights that are
            read next, of which each thread reads its share; how many stages the kernel has after
            its first; for each field how much it grows from one row of the operands to the next,
            and for each from one thread to the next; which field is the number of rows of the
            operands, if each thread gets rows of its own, else 0, and the kernel divides the work;
            and 1 where all threads must have done the steps before it, else 0. A row without a
            kernel notes the time at the address in its second word.
        steps: number of rows of the program.
        row_bytes: distance of two rows.
        thread: 0 <= thread < threads; all of them must make this call.
        threads: number of threads.
        meeting: address of ``1 + threads`` cache lines of int64. The first holds arrivals, zero at
            the start, and non-zero to give up; then a line a thread, whose first number grows by
            the nanoseconds that the thread waited.
    """
    arrivals = first = line = 0
    own: int = stack_words(MOST_FIELDS)
    size = (row_bytes - 8 * TAIL) // 3
    for step in range(steps):
        row = program + step * row_bytes
        if threads > 1 and load(row + row_bytes - 8) != 0:
            arrivals += threads
            begin, end = weights_ahead(row + size, thread, threads)
            if begin != first:
                first = line = begin
            line = meet(meeting, arrivals, thread, line, end)
            if line < 0:
                return
        if load(row) == 0:
            store(load(row + 8), nanoseconds())
            continue
        count_field = load(row + row_bytes - 16) if threads > 1 else 0
        if count_field == 0:
            call_row(load(row), row, thread, threads)
            for stage in range(load(row + size + 8 * AHEAD_WORDS)):
                arrivals += threads
                if threads > 1 and meet(meeting, arrivals, thread, 0, 0) < 0:
                    return
                call_row(load(row), row, thread + threads * (1 + stage), threads)
        elif take_rows(row, size, 8 * count_field, thread, threads, own):
            call_row(load(row), own, 0, 1)


def weights_ahead(words: int, thread: int, threads: int) -> tuple[int, int]:
    """Return the addresses where the weights that a thread reads next begin and end.

    Args:
        words: address of three: see ``run``.
        thread: who reads them.
        threads: number of threads.
    """
    begin, end = share(load(words + 8), thread, threads)
    first, size = load(words) + begin * load(words + 16), (end - begin) * load(words + 16)
    return first, first + min(size, AHEAD_BYTES)


def take_rows(row: int, size: int, count: int, thread: int, threads: int, own: int) -> bool:
    """Write a step for the rows of one thread; False when it has none.

    Args:
        row: address of the step.
        size: bytes of its fields.
        count: where among them the number of rows is, in bytes.
        thread: whose rows.
        threads: number of threads.
        own: address of room for the fields.
    """
    begin, end = share(load(row + count), thread, threads)
    if begin == end:
        return False
    growth = row + size + 8 * (AHEAD_WORDS + 1)
    for field in range(0, size, 8):
        grown = begin * load(growth + field) + thread * load(growth + size + field)
        store(own + field, load(row + field) + grown)
    store(own + count, end - begin)
    return True


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
    wait(calls + LINE, load(calls) * (threads - 1), meeting, 0, 0)


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
