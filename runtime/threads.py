"""Persistent worker threads that run one function together, and never lose an error of a worker."""

import os
import queue
import threading
import weakref
from collections.abc import Callable

STACK_BYTES = 16 << 20
"""Of each worker: kernels have scratch memory there, and some systems' own choice is 128 KiB."""

Task = Callable[[int], None]
"""Called with the number of the thread, 0 for the caller's own."""


class Workers:
    """``count - 1`` threads beside the caller's, asleep between runs.

    They end when the object is closed or collected.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._process = os.getpid()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._inboxes = [queue.SimpleQueue[Task | None]() for _ in range(count - 1)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(number, inbox),
                name=f"edgellm-{number}",
                daemon=True,
            )
            for number, inbox in enumerate(self._inboxes, start=1)
        ]
        usual = threading.stack_size(STACK_BYTES)
        try:
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(usual)
        self._finalizer = weakref.finalize(self, _stop, self._inboxes)

    @property
    def are_lost(self) -> bool:
        """Whether they stayed behind in the process that this one was forked from."""
        return os.getpid() != self._process

    def run(self, task: Task, give_up: Callable[[], None]) -> None:
        """Call ``task(number)`` once on each thread, and wait for all.

        Args:
            task: what to do.
            give_up: called when a thread fails, from any thread, so that the others stop waiting
                for it.

        Raises:
            BaseException: the first that a thread raised; the others have finished by then.
        """

        def guarded(number: int) -> None:
            try:
                task(number)
            except BaseException as error:
                give_up()
                if number == 0:
                    raise
                self._done.put(error)  # raised by the caller's thread, below
            else:
                if number != 0:
                    self._done.put(None)

        started = 0
        failure: BaseException | None = None
        try:
            for inbox in self._inboxes:
                inbox.put(guarded)
                started += 1
            guarded(0)
        except BaseException as error:  # noqa: BLE001 - raised again below, when all have stopped
            give_up()
            failure = error
        failure = self._collect(started, failure, give_up)
        if failure is not None:
            raise failure

    def start(self, number: int, task: Task) -> None:
        """Call ``task(number)`` on a worker, and wait for nothing; the task raises nothing."""
        self._inboxes[number - 1].put(task)

    def _collect(
        self, count: int, failure: BaseException | None, give_up: Callable[[], None]
    ) -> BaseException | None:
        while count:
            try:
                result = self._done.get()
            except KeyboardInterrupt as error:  # the workers still have to be waited for
                give_up()
                failure = failure or error
                continue
            failure = failure or result
            count -= 1
        return failure

    def close(self) -> None:
        """End the threads and wait for them; a second call does nothing."""
        self._finalizer()
        for thread in self._threads:
            thread.join()


def _work(number: int, inbox: "queue.SimpleQueue[Task | None]") -> None:
    while (task := inbox.get()) is not None:
        task(number)
        del task


def _stop(inboxes: "list[queue.SimpleQueue[Task | None]]") -> None:
    for inbox in inboxes:
        inbox.put(None)
