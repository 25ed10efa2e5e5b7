"""Pictures of a simulation: a roofline with every operator on it, and a stacked bar of time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm.devices import _model
from edgellm.devices._description import Description
from edgellm.devices._simulation import OperatorCost, Simulation
from edgellm.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 760
LEFT, RIGHT, TOP, BOTTOM = 90, 930, 60, 560
BAR_TOP, BAR_BOTTOM = 650, 700
BLACK, GREY, LIGHT = (20, 20, 20), (120, 120, 120), (225, 225, 225)
COLORS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
    (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207), (0, 0, 128), (128, 0, 0),
    (0, 100, 0), (255, 215, 0), (75, 0, 130), (255, 105, 180), (0, 206, 209),
)  # fmt: skip
MAX_LABELS = 30
LARGEST_MARK, SMALLEST_MARK = 16, 3
SMALL_SHARE = 0.04
"""Of the time; parts of the bar below it have no label."""


def new_image() -> tuple[Any, "ImageDraw"]:
    """Return a white picture and what draws on it.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "drawing needs Pillow: pip install 'edgellm[vision]'"
        ) from error
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    return image, ImageDraw.Draw(image)


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis between two values, on pixels."""

    low: float
    high: float
    first: int
    last: int

    @classmethod
    def around(cls, values: Iterable[float], first: int, last: int) -> "Axis":
        """Return an axis of whole decades that holds some positive values."""
        logs = [math.log10(value) for value in values]
        low, high = math.floor(min(logs)), math.ceil(max(logs))
        return cls(10.0**low, 10.0 ** max(high, low + 1), first, last)

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + share * (self.last - self.first)

    def decades(self) -> list[float]:
        """Return the powers of ten on it."""
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def draw_axes(pen: "ImageDraw", x: Axis, y: Axis, labels: tuple[str, str]) -> None:
    """Draw a frame with decades and what the axes are."""
    for value in x.decades():
        pen.line([(x.at(value), TOP), (x.at(value), BOTTOM)], LIGHT)
        pen.text((x.at(value), BOTTOM + 6), f"{value:g}", BLACK, anchor="ma")
    for value in y.decades():
        pen.line([(LEFT, y.at(value)), (RIGHT, y.at(value))], LIGHT)
        pen.text((LEFT - 6, y.at(value)), f"{value:g}", BLACK, anchor="rm")
    pen.rectangle([(LEFT, TOP), (RIGHT, BOTTOM)], outline=GREY)
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 24), labels[0], BLACK, anchor="ma")
    pen.text((LEFT, TOP - 18), labels[1], BLACK)


def draw(result: Simulation, description: Description, file: str) -> None:
    """Draw the last pass of a simulation, and the prompt's, into a PNG file.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    image, pen = new_image()
    name = f"{result.workload} on {result.device}, simulated ({result.engine})"
    pen.text((LEFT, 14), name, BLACK)
    passes = [result.last]
    if result.prefill is not None and result.decode is not None:
        pen.text((LEFT, 30), "circles: the last token; squares: the prompt", BLACK)
        passes.append(result.prefill)
    if any(_has_place(item) for item in result.last.operators):
        _roofline(pen, [item.operators for item in passes], description)
    _bar(pen, result.last.operators)
    image.save(file, "PNG")


def _has_place(item: OperatorCost) -> bool:
    return item.cost.macs > 0 and sum(item.cost.bytes.values()) > 0


def _place(item: OperatorCost) -> tuple[float, float]:
    """Return products a byte and products a second."""
    return item.cost.macs / sum(item.cost.bytes.values()), item.cost.macs / item.cost.seconds


def _roofline(
    pen: "ImageDraw", passes: Sequence[Sequence[OperatorCost]], description: Description
) -> None:
    """Draw products a byte against products a second, and the limits of the description."""
    places = [_place(item) for operators in passes for item in operators if _has_place(item)]
    bandwidth = sum(_model.bytes_per_s(memory) for memory in description.memory)
    peak = max([_peak(description), *(speed for _, speed in places)])
    ridge = peak / bandwidth if bandwidth else 1.0
    x = Axis.around([*(ratio * 0.9 for ratio, _ in places), ridge, ridge * 10], LEFT, RIGHT)
    y = Axis.around([*(speed for _, speed in places), peak * 1.1], BOTTOM, TOP)
    draw_axes(pen, x, y, ("multiply-accumulates a byte", "multiply-accumulates a second"))
    if bandwidth:
        begin = max(x.low, y.low / bandwidth)
        slope = [(x.at(begin), y.at(begin * bandwidth)), (x.at(ridge), y.at(peak))]
        pen.line(slope, BLACK, 2)
        pen.line([slope[1], (RIGHT, y.at(peak))], BLACK, 2)
    for mark, operators in zip((pen.ellipse, pen.rectangle), passes, strict=False):
        for number, item in _numbered(operators):
            ratio, speed = _place(item)
            size = max(SMALLEST_MARK, LARGEST_MARK - number)  # those below show as rings
            across, up = x.at(ratio), y.at(speed)
            mark([(across - size, up - size), (across + size, up + size)], _color(number))
    for row, (number, item) in enumerate(_numbered(passes[0])):
        top = TOP + 20 * row
        pen.rectangle([(RIGHT + 16, top), (RIGHT + 26, top + 10)], _color(number))
        pen.text((RIGHT + 32, top - 1), _short(item.name), BLACK)


def _numbered(operators: Sequence[OperatorCost]) -> list[tuple[int, OperatorCost]]:
    """Return the operators that have a place on a roofline, with their numbers in the pass."""
    return [(number, item) for number, item in enumerate(operators) if _has_place(item)]


def _color(number: int) -> tuple[int, int, int]:
    return COLORS[number % len(COLORS)]


def _peak(description: Description) -> float:
    """Return the products a second of the fastest array at its fastest precision; 0 without one."""
    rates = [
        array.m * array.n * array.k * max(array.rate.values(), default=1.0)
        for array in description.array
    ]
    return max(rates, default=0.0) * description.hz() * _model.speed_up(description)


def _bar(pen: "ImageDraw", operators: Sequence[OperatorCost]) -> None:
    """Draw the time of a pass as one bar, a part for each operator."""
    whole = sum(item.cost.seconds for item in operators)
    pen.text((LEFT, BAR_TOP - 24), f"time of one pass: {whole * 1e3:.4g} ms", BLACK)
    begin = float(LEFT)
    for number, item in enumerate(operators):
        share = item.cost.seconds / whole if whole else 0.0
        end = begin + share * (WIDTH - 2 * LEFT)
        color = _color(number)
        pen.rectangle([(begin, BAR_TOP), (max(end, begin), BAR_BOTTOM)], color)
        if share >= SMALL_SHARE:
            label = f"{_short(item.name)[:16]} {share:.0%}"
            pen.text(((begin + end) / 2, BAR_BOTTOM + 6 + 14 * (number % 3)), label, BLACK,
                     anchor="ma")  # fmt: skip
        begin = end


def _short(name: str) -> str:
    """Return the end of a node's name: "self_attn/q_proj"."""
    parts = [part for part in name.split("/") if part]
    return "/".join(parts[-3:-1] if len(parts) > 2 else parts)[:32]


def draw_front(points: Sequence[tuple[float, float, bool, str]], title: str, file: str) -> None:
    """Draw designs into a PNG file: joules and tokens a second, whether on the front, and a label.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    image, pen = new_image()
    pen.text((LEFT, 14), title, BLACK)
    x = Axis.around([point[0] for point in points], LEFT, RIGHT)
    y = Axis.around([point[1] for point in points], BOTTOM, TOP)
    draw_axes(pen, x, y, ("joules a token", "tokens a second"))
    marked = 0
    for joules, speed, best, label in sorted(points, key=lambda point: point[2]):
        across, up = x.at(joules), y.at(speed)
        color = COLORS[marked % len(COLORS)] if best else GREY
        size = 6 if best else 3
        pen.ellipse([(across - size, up - size), (across + size, up + size)], color)
        if best and marked < MAX_LABELS:
            top = TOP + 20 * marked
            pen.rectangle([(RIGHT + 16, top), (RIGHT + 26, top + 10)], color)
            pen.text((RIGHT + 32, top - 1), label[:36], BLACK)
        marked += best
    image.save(file, "PNG")
