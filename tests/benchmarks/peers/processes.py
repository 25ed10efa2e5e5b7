"""One process an engine: they take turns, so no engine sees another's threads or memory."""

import multiprocessing
from multiprocessing.connection import Connection

from tests.benchmarks.peers.measures import Engine, Measure


class EngineFailed(Exception):
    """An engine cannot be opened or cannot do what it was asked; the message says why."""


class EngineProcess:
    """An engine that waits in its own process."""

    def __init__(self, engine: Engine) -> None:
        """Start the process and wait until it has the model.

        Raises:
            EngineFailed: it cannot be opened.
        """
        self.name = engine.name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(engine, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.weight_bytes = int(self._receive())

    def seconds(self, measure: Measure) -> float:
        """Measure once.

        Raises:
            EngineFailed: the engine failed.
        """
        self._connection.send(measure)
        return self._receive()

    def _receive(self) -> float:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            answer = f"its process ended with status {self._process.exitcode}"
        if isinstance(answer, str):
            raise EngineFailed(answer)
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def serve(engine: Engine, connection: Connection) -> None:
    """Answer measures with seconds, and a failure with its message, until the pipe ends."""
    try:
        runner = engine.open()
        connection.send(runner.weight_bytes)
        while True:
            connection.send(runner.seconds(connection.recv()))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - told to the process that asked
        connection.send(f"{type(error).__name__}: {error}")
