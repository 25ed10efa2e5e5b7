"""The table of one comparison, and the JSON of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.peers.contenders import OURS
from tests.benchmarks.peers.measures import Measure
from tests.benchmarks.peers.shapes import MODELS, PRODUCTS

NAME_WIDTH = 26
RATIO_WIDTH = 24


@dataclass(frozen=True)
class Result:
    """What one engine took in each round; ``weight_bytes`` is what a token or product reads."""

    engine: str
    weight_bytes: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """One piece of work on one shape, by all engines in turn."""

    shape: str
    measure: Measure
    results: tuple[Result, ...]
    memory: Result
    dots: Result | None

    @property
    def products(self) -> int:
        """Multiplications of the work, without the logits head; 0 where it is not known."""
        tokens = self.measure.tokens
        if self.shape in PRODUCTS:
            return PRODUCTS[self.shape].columns * PRODUCTS[self.shape].rows * tokens
        return MODELS[self.shape].products_per_token * tokens if self.shape in MODELS else 0


def table(comparison: Comparison) -> str:
    """Return the comparison as lines of text."""
    measure = comparison.measure
    ours = [result for result in comparison.results if result.engine in OURS]
    memory = spread(rates(comparison.memory, comparison.memory.weight_bytes / 1e9))
    rounds = len(comparison.memory.seconds)
    lines = [f"\n{comparison.shape}, {measure}: {rounds} rounds; memory gives {memory} GB/s"]
    if comparison.dots:
        peak = comparison.dots.weight_bytes * measure.threads / 1e9
        lines[0] += f", registers {spread(rates(comparison.dots, peak))} GMAC/s"
    unit = "products/s" if measure.phase == "product" else "tokens/s"
    titles = [f"{one.engine.split()[1] + ' is faster':>{RATIO_WIDTH}}" for one in ours]
    head = f"  {'':{NAME_WIDTH}} {unit:>26} {limit_title(measure):>20}"
    lines.append(" ".join([head, *titles]))
    for result in comparison.results:
        per_sample = 1 if measure.phase == "product" else measure.tokens
        cells = [
            f"  {result.engine:{NAME_WIDTH}} {spread(rates(result, per_sample)):>26}",
            f"{limit_share(comparison, result):>20} ",
            *(
                f"{ratio(one, result):>{len(title)}}"
                for one, title in zip(ours, titles, strict=True)
            ),
        ]
        lines.append(" ".join(cells))
    return "\n".join(lines)


def limit_title(measure: Measure) -> str:
    return "GB/s of the memory's" if measure.phase == "decode" or measure.tokens == 1 else "GMAC/s"


def limit_share(comparison: Comparison, result: Result) -> str:
    """Return how much of the limit an engine uses: of the memory for one row, else of the dots."""
    measure = comparison.measure
    if measure.phase == "decode" or measure.tokens == 1:
        if not result.weight_bytes:
            return ""
        calls = measure.tokens if measure.phase == "decode" else 1
        speed = median(rates(result, calls * result.weight_bytes))
        limit = median(rates(comparison.memory, comparison.memory.weight_bytes))
    else:
        if not comparison.products:
            return ""
        speed = median(rates(result, comparison.products))
        if comparison.dots is None:
            return f"{speed / 1e9:.1f}"
        limit = median(rates(comparison.dots, comparison.dots.weight_bytes * measure.threads))
    return f"{speed / 1e9:.1f} ({speed / limit:.0%})"


def ratio(ours: Result, other: Result) -> str:
    """Return how many times faster ours is: the median over the rounds, and the extremes."""
    if ours.engine == other.engine:
        return "-"
    pairs = zip(ours.seconds, other.seconds, strict=True)
    return spread([theirs / own for own, theirs in pairs]) + " x"


def rates(result: Result, work: float) -> list[float]:
    return [work / seconds for seconds in result.seconds]


def spread(values: Sequence[float]) -> str:
    """Return "median (least to most)"."""
    middle = median(values)
    digits = 0 if middle >= 1000 else 1 if middle >= 20 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
