"""Explore designs of a device: all combinations of some numbers, on all cores or on a cluster."""

import csv
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.device_api import Subject
from edgellm.errors import ConfigError, DeviceError, MissingDependencyError

if TYPE_CHECKING:
    from edgellm.devices._simulation import Request

MAX_DESIGNS = 100_000
FIGURES = (
    "tokens_per_s", "time_to_first_token_s", "joules_per_token", "multipliers", "bandwidth_gbs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One design to simulate; it is sent to other processes."""

    subject: Subject
    device: str
    request: "Request"
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a design costs.

    Attributes:
        changes: of the description: "array.m=64".
        tokens_per_s: decoded.
        time_to_first_token_s: of the prompt.
        joules_per_token: of decoding.
        multipliers: that the arrays of all cores have.
        bandwidth_gbs: of all memories, at their peak.
        bound: the unit that most of the time comes from.
        error: why there are no figures; empty if there are.
        pareto: whether no other design is as good in speed, energy, multipliers and bandwidth, and
            better in one of them.
    """

    changes: tuple[str, ...]
    tokens_per_s: float = 0.0
    time_to_first_token_s: float = 0.0
    joules_per_token: float = 0.0
    multipliers: int = 0
    bandwidth_gbs: float = 0.0
    bound: str = ""
    error: str = ""
    pareto: bool = False


def combinations(settings: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all combinations of settings such as "array.m=32,64".

    Raises:
        ConfigError: a setting has no values, one appears twice, or there are too many designs.
    """
    axes: dict[str, list[str]] = {}
    for setting in settings:
        key, _, values = setting.partition("=")
        if key in axes:
            raise ConfigError(f"--set {key} is there twice; give its values in one, with commas")
        axes[key] = [f"{key}={value.strip()}" for value in values.split(",") if value.strip()]
        if not axes[key]:
            raise ConfigError(f"--set {setting!r}: needed are values: array.m=32,64")
    if not axes:
        raise ConfigError("nothing to vary; give values: --set array.m=32,64")
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_DESIGNS:
        raise ConfigError(f"{count} designs; allowed are {MAX_DESIGNS}")
    return list(itertools.product(*axes.values()))


def evaluate(job: Job) -> Design:
    """Simulate one design; what cannot be built gets its error."""
    from edgellm.devices import _catalog, _simulation

    try:
        description = _catalog.describe(job.device, job.changes)
        device = _catalog.make(description)
        result = _simulation.run(device, job.subject.workload(), job.request)
    except (ConfigError, DeviceError) as error:
        return Design(changes=job.changes, error=str(error))
    multipliers = sum(array.m * array.n * array.k for array in description.array)
    return Design(
        changes=job.changes,
        tokens_per_s=result.tokens_per_s,
        time_to_first_token_s=result.time_to_first_token_s,
        joules_per_token=result.joules_per_token,
        multipliers=multipliers * description.cores.count,
        bandwidth_gbs=sum(memory.bw_gbs for memory in description.memory),
        bound=(result.decode or result.last.cost).bound,
    )


def sweep(
    jobs: Sequence[Job],
    *,
    processes: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Design]:
    """Simulate designs and mark the Pareto front.

    A script that calls this needs ``if __name__ == "__main__"``, since processes are started.

    Args:
        jobs: the designs.
        processes: how many to use; default: one for each core; 1 stays in this one.
        scheduler: "tcp://host:port" of a Dask scheduler whose workers have edgellm, instead.
        progress: called with 1 after each design.

    Raises:
        ConfigError: no design can be built, or the scheduler cannot be reached.
        MissingDependencyError: a scheduler is given, and the extra ``cluster`` is not installed.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"jobs is {processes}; it must be at least 1")
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if scheduler is not None:
        found = _on_cluster(jobs, scheduler)
    elif count == 1:
        found = map(evaluate, jobs)
    else:
        found = _on_cores(jobs, count)
    designs = []
    for design in found:
        designs.append(design)
        progress(1)
    if all(design.error for design in designs):
        raise ConfigError(f"no design can be simulated; the first: {designs[0].error}")
    return mark_pareto(designs)


def _on_cores(jobs: Sequence[Job], count: int) -> Iterator[Design]:
    # Spawned, not forked: a fork copies the locks of threads that it has not.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(evaluate, jobs, chunksize=max(1, len(jobs) // (8 * count)))


def _on_cluster(jobs: Sequence[Job], scheduler: str) -> Iterator[Design]:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "a cluster needs Dask: pip install 'edgellm[cluster]'"
        ) from error
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{scheduler}: no Dask scheduler answers: {error}") from error
    with client:
        yield from client.gather(client.map(evaluate, jobs))


def mark_pareto(designs: Sequence[Design]) -> list[Design]:
    """Return the designs with those marked that no other one dominates."""
    from dataclasses import replace

    places = {_place(design) for design in designs if not design.error}
    front = {place for place in places if not any(_dominates(other, place) for other in places)}
    return [
        replace(design, pareto=not design.error and _place(design) in front) for design in designs
    ]


def _place(design: Design) -> tuple[float, ...]:
    """Return what is better the smaller it is: seconds, joules, multipliers, bandwidth.

    Seconds and joules in two digits: simulations are not better than that, and for a gain of 0.1 %
    nobody doubles the bandwidth.
    """
    speed = design.tokens_per_s or 1 / max(design.time_to_first_token_s, 1e-30)
    seconds, joules = (float(f"{figure:.2g}") for figure in (1 / speed, design.joules_per_token))
    return (seconds, joules, design.multipliers, design.bandwidth_gbs)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def write_csv(designs: Iterable[Design], file: Path) -> None:
    """Write designs as a table: a column for each setting, the figures, and what was wrong."""
    rows = list(designs)
    keys = [change.partition("=")[0] for change in rows[0].changes]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*keys, *FIGURES, "bound", "pareto", "error"])
        for design in rows:
            values = [change.partition("=")[2] for change in design.changes]
            figures = [getattr(design, name) for name in FIGURES]
            writer.writerow([*values, *figures, design.bound, int(design.pareto), design.error])


def _label(design: Design) -> str:
    """Return its settings without their sections: "m=64 bw_gbs=460"."""
    pairs = [change.partition("=") for change in design.changes]
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs)


def draw(designs: Sequence[Design], title: str, file: Path) -> None:
    """Draw speed against energy into a PNG file, the Pareto front in colour.

    Raises:
        MissingDependencyError: Pillow is not installed.
        ConfigError: no design decodes tokens.
    """
    from edgellm.devices import _plot

    sound = [item for item in designs if item.tokens_per_s > 0 and item.joules_per_token > 0]
    if not sound:
        raise ConfigError("no design decodes tokens at some energy; there is nothing to draw")
    points = [
        (item.joules_per_token, item.tokens_per_s, item.pareto, _label(item)) for item in sound
    ]
    _plot.draw_front(points, title, str(file))
