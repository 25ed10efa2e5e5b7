import io

import numpy as np
import onnx
import pytest

from edgellm.errors import ExportError
from edgellm.exporters.graph import GraphBuilder


@pytest.fixture
def weights() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def builder(weights: io.BytesIO) -> GraphBuilder:
    builder = GraphBuilder("test", weights)
    for name, size in (("first", 300), ("inline", 3), ("last", 256)):
        builder.initializer(name, np.arange(size, dtype=np.int32))
    return builder


def test_replaced_numbers_stand_where_the_old_ones_stood(
    builder: GraphBuilder, weights: io.BytesIO
) -> None:
    before = weights.getvalue()

    builder.replace("first", np.full(300, 7, np.int32))
    builder.replace("inline", np.full(3, 8, np.int32))
    builder.initializer("new", np.full(256, 9, np.int32))

    found = {
        item.name: item for item in onnx.load_from_string(builder.serialize()).graph.initializer
    }
    assert found["inline"].raw_data == np.full(3, 8, np.int32).tobytes()
    after = weights.getvalue()
    assert after[:1200] == np.full(300, 7, np.int32).tobytes()
    assert after[1200 : len(before)] == before[1200:]
    assert after[len(before) :] == np.full(256, 9, np.int32).tobytes()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("other", np.zeros(3, np.int32)),
        ("inline", np.zeros(4, np.int32)),
        ("inline", np.zeros(3, np.int64)),
        ("inline", np.zeros(3, np.float64)),
    ],
)
def test_only_numbers_can_be_replaced(builder: GraphBuilder, name: str, array: np.ndarray) -> None:
    with pytest.raises(ExportError, match=f"{name}: no constant is {array.dtype}"):
        builder.replace(name, array)
