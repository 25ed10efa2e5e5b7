from pathlib import Path

import pytest

from edgellm.errors import ConfigError
from edgellm.runtime import bit_map
from edgellm.runtime.inspection import LinearInfo, inspect_bundle

Image = pytest.importorskip("PIL.Image")


def test_each_linear_has_the_color_of_its_bits(random_bundle: Path, tmp_path: Path) -> None:
    linears = inspect_bundle(random_bundle).linears

    bit_map.draw(linears, tmp_path / "bits.png")

    with Image.open(tmp_path / "bits.png") as image:
        assert image.format == "PNG"
        found = {color: count for count, color in image.getcolors(1 << 16)}
    ternary = found[tuple(bytes.fromhex(bit_map.COLORS[2][1:]))]
    inside = (bit_map.CELL[0] - 3) * (bit_map.CELL[1] - 3)
    assert 0.7 * inside * len(linears) < ternary <= inside * len(linears)


def test_rows_of_other_bits_have_their_share_of_the_cell(tmp_path: Path) -> None:
    parts = [
        LinearInfo(
            name=f"/model/layers.0/mlp/up_proj.{number}",
            op_type="GroupLinear",
            bits=bits,
            rows=rows,
            columns=64,
            stored_bits=bits,
        )
        for number, (bits, rows) in enumerate([(8, 64), (1, 192)])
    ]

    bit_map.draw(parts, tmp_path / "bits.png")

    with Image.open(tmp_path / "bits.png") as image:
        found = {color: count for count, color in image.getcolors(1 << 16)}
    light, dark = (found[tuple(bytes.fromhex(bit_map.COLORS[bits][1:]))] for bits in (1, 8))
    assert image.width == bit_map.MARGIN + bit_map.CELL[0]
    # The label stands in the lighter part.
    assert 2 * dark < light < 3.2 * dark


def test_names_tell_the_layer() -> None:
    assert bit_map.place_of("/model/layers.12/mlp/up_proj") == (12, "mlp/up_proj")
    assert bit_map.place_of("/model/layers.3/mlp/up_proj.1") == (3, "mlp/up_proj")
    assert bit_map.place_of("/classifier") == (-1, "classifier")


def test_what_cannot_be_drawn_is_refused(random_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no linear"):
        bit_map.draw([], tmp_path / "bits.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        bit_map.draw(inspect_bundle(random_bundle).linears, tmp_path / "none" / "bits.png")
