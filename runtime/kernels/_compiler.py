"""Compile several kernels at once, each in a process of its own: Numba compiles one at a time.

The processes put the object code in the cache (see ``_objects``), from where it is loaded. What
they do not get done is compiled when it is needed.
"""

import gc
import logging
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from edgellm.runtime import cpu
from edgellm.runtime.kernels import _objects, find
from edgellm.runtime.kernels._jit import Kernel
from edgellm.runtime.process_memory import available_memory_bytes

logger = logging.getLogger(__name__)

FEWEST = 3
"""Kernels that are worth other processes; each takes half a second to import Numba."""
PROCESS_BYTES = 400 << 20
"""Memory that a process may need: 250 MB were measured."""
GARBAGE = 100_000
"""Objects between two looks for unused ones; Python's own number takes a tenth of the time."""
EXECUTOR = "executor"
DONE = "done"

Process = subprocess.Popen[str]
Progress = Callable[[int, int], object]
"""Called with the number of kernels that are compiled, and the number to compile."""


def compile_missing(
    kernels: Iterable[Kernel], progress: Progress = lambda _done, _total: None
) -> None:
    """Compile what is not in the cache: of these kernels, and the executor."""
    jobs = _missing(kernels)
    if not jobs:
        return
    progress(0, len(jobs))
    processes = _processes_for(jobs)
    if processes > 1 and _objects.can_keep():
        _share(jobs, processes, progress)
        return
    for done, job in enumerate(jobs, start=1):
        _load(job)
        progress(done, len(jobs))


def _processes_for(jobs: Sequence[str]) -> int:
    """Return how many processes are worth their start, and fit in the memory."""
    if len(jobs) < FEWEST or not sys.executable:
        return 1
    room = available_memory_bytes() // PROCESS_BYTES
    return min(cpu.host().physical_cores, room, len(jobs))


def _missing(kernels: Iterable[Kernel]) -> list[str]:
    """Return the jobs, those first that take long: loops for vector units, and attention.

    Unit by unit: what several kernels of a unit call is compiled once in a process.
    """
    distinct = {kernel for kernel in kernels if not _objects.kernel_path(kernel).exists()}
    ordered = sorted(distinct, key=lambda kernel: (kernel.variant, kernel.symbol))
    jobs = [f"{kernel.op_type} {kernel.variant}" for kernel in ordered]
    jobs.sort(key=lambda job: job.endswith(" portable") and "Attention " not in job)
    if not (_objects.executor_path().exists() and _objects.crew_path().exists()):
        jobs.append(EXECUTOR)
    return jobs


def _load(job: str) -> None:
    """Compile what a job names, or find it in the cache."""
    if job == EXECUTOR:
        _objects.executor_address()
        _objects.crew_address()
        return
    op_type, variant = job.split()
    _objects.kernel_address(find(op_type, variant))


def _share(jobs: list[str], count: int, progress: Progress) -> None:
    """Hand the jobs to so many processes, whichever is idle."""
    idle: queue.SimpleQueue[Process] = queue.SimpleQueue()

    def hand_out(job: str) -> None:
        process = idle.get()
        try:
            _ask(process, job)
        finally:
            idle.put(process)

    # Processes end before threads do: when this one is interrupted, no thread waits for an answer.
    with ThreadPoolExecutor(count) as pool, _processes(count) as started:
        for process in started:
            idle.put(process)
        handed_out = [pool.submit(hand_out, job) for job in jobs]
        for done, _ in enumerate(as_completed(handed_out), start=1):
            progress(done, len(jobs))


def _ask(process: Process, job: str) -> None:
    """Wait until a process has done a job, or has ended."""
    logger.info("compiling %s", job)
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    try:
        process.stdin.write(f"{job}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError as error:
        answer = str(error)
    if answer.strip() != DONE:
        logger.info("%s is left to be compiled when it is needed", job)


@contextmanager
def _processes(count: int) -> Iterator[list[Process]]:
    """Start processes that run ``serve``; they end with the block."""
    # -P: the folder this runs in is no place to import from, unless it is one for this process.
    command = [sys.executable, "-P", "-c", f"import {__name__} as compiler; compiler.serve()"]
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what goes wrong there goes wrong here again, and is told
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
        for _ in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def serve() -> None:
    """Do the jobs that come on stdin, a line each, until it is closed."""
    gc.set_threshold(GARBAGE)
    for line in sys.stdin:
        _load(line.strip())
        sys.stdout.write(f"{DONE}\n")
        sys.stdout.flush()
