"""A picture of how many bits each linear of a bundle has: a row a layer, a column a linear.

Where rows of a linear have different bits, its cell is divided as they are.
"""

import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import ConfigError, MissingDependencyError
from edgellm.runtime.inspection import LinearInfo

if TYPE_CHECKING:
    from PIL import ImageDraw

CELL = (44, 22)
HEADER = 190
MARGIN = 60
COLORS = {1: "#f7fbff", 2: "#d6e6f4", 3: "#abd0e6", 4: "#6aaed6", 5: "#3787c0", 6: "#1d6cb1",
          7: "#105ba4", 8: "#08306b"}  # fmt: skip
"""By bits, light to dark."""
LIGHT_TEXT_FROM = 5
MARKS = {"ShiftAddLinear": "s", "CodebookLinear": "c", "TrellisLinear": "t"}
"""Behind the bits, by operator."""

Place = tuple[int, str]


def draw(linears: Sequence[LinearInfo], path: Path) -> None:
    """Write the picture as PNG.

    Raises:
        ConfigError: the bundle has no linear, or the file cannot be written.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingDependencyError("a picture takes Pillow: pip install pillow") from error
    if not linears:
        raise ConfigError("this bundle has no linear to draw")
    cells: dict[Place, list[LinearInfo]] = {}
    for linear in linears:
        cells.setdefault(place_of(linear.name), []).append(linear)
    layers = sorted({layer for layer, _ in cells})
    kinds = list(dict.fromkeys(kind for _, kind in cells))
    size = (MARGIN + CELL[0] * len(kinds), HEADER + CELL[1] * len(layers) + 4)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for column, kind in enumerate(kinds):
        label = Image.new("RGB", (HEADER - 8, CELL[1]), "white")
        ImageDraw.Draw(label).text((0, 4), kind[-28:], fill="black")
        turned = label.rotate(90, expand=True)
        image.paste(turned, (MARGIN + column * CELL[0] + 10, 4))
    for row, layer in enumerate(layers):
        top = HEADER + row * CELL[1]
        pen.text((6, top + 5), "other" if layer < 0 else f"layer {layer}", fill="black")
        for column, kind in enumerate(kinds):
            if (layer, kind) in cells:
                _draw_cell(pen, (MARGIN + column * CELL[0], top), cells[layer, kind])
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def _draw_cell(
    pen: "ImageDraw.ImageDraw", corner: tuple[int, int], parts: Sequence[LinearInfo]
) -> None:
    """Draw a linear, or its parts side by side, each as wide as it has rows."""
    left, top = corner
    rows = sum(part.rows for part in parts)
    bottom, begin = top + CELL[1] - 2, 0
    for part in sorted(parts, key=lambda one: one.bits):
        ends = [left + (CELL[0] - 2) * done // rows for done in (begin, begin + part.rows)]
        box = (ends[0], top, ends[1], bottom)
        pen.rectangle(box, fill=COLORS.get(ceil(part.bits), "black"), outline="grey")
        begin += part.rows
    mean = sum(part.rows * part.bits for part in parts) / rows
    label = f"{mean:g}" if len({part.bits for part in parts}) == 1 else f"{mean:.1f}"
    kinds = {part.op_type for part in parts}
    mark = MARKS.get(kinds.pop(), "") if len(kinds) == 1 else ""
    ink = "white" if mean >= LIGHT_TEXT_FROM else "black"
    pen.text((left + 12, top + 5), f"{label}{mark}", fill=ink)


def place_of(name: str) -> Place:
    """Return the layer of a node (-1 if it is in none), and what it is called in each layer.

    The parts of a linear, ``<name>.0`` and so on, are at one place.
    """
    found = re.search(r"\.(\d+)/(.*?)(\.\d+)?$", name)
    return (int(found[1]), found[2]) if found else (-1, name.strip("/"))
