"""Let the engines of a shape take turns."""

from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks.peers.machine import DotProducts, Memory
from tests.benchmarks.peers.measures import Engine, Measure
from tests.benchmarks.peers.processes import EngineFailed, EngineProcess
from tests.benchmarks.peers.report import Comparison, Result

MEMORY = Memory()
DOTS = DotProducts()
WARM_UP = {"decode": 2, "prefill": 16}
"""Tokens of the run that is not counted; a product does its whole work."""


class Field:
    """The processes of a shape's engines; one that failed is opened again for the next measure."""

    def __init__(
        self, shape: str, engines: Sequence[Engine], tell: Callable[[str], object]
    ) -> None:
        self._shape, self._tell = shape, tell
        self._engines = list(engines)
        self._processes: dict[str, EngineProcess] = {}

    def compare(self, measures: Sequence[Measure], rounds: int) -> Iterator[Comparison]:
        """Yield a comparison for each measure, and end the processes when there is no more."""
        try:
            for measure in measures:
                self._open()
                yield self._compare(measure, rounds)
        finally:
            for process in self._processes.values():
                process.close()

    def _open(self) -> None:
        for engine in [*self._engines, MEMORY, DOTS]:
            if engine.name in self._processes:
                continue
            try:
                self._processes[engine.name] = EngineProcess(engine)
            except EngineFailed as error:
                self._tell(f"{self._shape}: {engine.name} is left out: {error}")
                self._engines = [one for one in self._engines if one is not engine]

    def _compare(self, measure: Measure, rounds: int) -> Comparison:
        warm = Measure(measure.phase, WARM_UP.get(measure.phase, measure.tokens), measure.threads)
        for name in list(self._processes):
            self._seconds(name, warm)
        samples: dict[str, list[float]] = {name: [] for name in self._processes}
        for turn in range(rounds):
            for name in rotated(list(self._processes), turn):
                taken = self._seconds(name, measure)
                if taken is not None:
                    samples[name].append(taken)
        results = {
            name: Result(name, process.weight_bytes, tuple(samples[name]))
            for name, process in self._processes.items()
        }
        memory, dots = results.pop(MEMORY.name), results.pop(DOTS.name)
        return Comparison(self._shape, measure, tuple(results.values()), memory, dots)

    def _seconds(self, name: str, measure: Measure) -> float | None:
        """Measure once; an engine that fails is out, with a line that says so."""
        try:
            return self._processes[name].seconds(measure)
        except EngineFailed as error:
            self._tell(f"{self._shape}, {measure}: {name} failed: {error}")
            self._processes.pop(name).close()
            return None


def rotated(names: list[str], turn: int) -> list[str]:
    """Return the names in an order that starts with another one in each round."""
    start = turn % len(names)
    return names[start:] + names[:start]
