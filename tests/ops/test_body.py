"""The shared arithmetic as ONNX nodes against the same in NumPy, over its whole ranges."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgellm.ops import _body_integers as graph
from edgellm.ops import _integers as integers
from edgellm.ops._body import Body, Value
from edgellm.ops._schema import OpSchema, Port

Int64 = npt.NDArray[np.int64]


def run(formula: Callable[..., Value], *inputs: Int64) -> Int64:
    """Run a formula over int64 inputs in onnxruntime."""
    ports = tuple(Port(f"x{i}", "int64", ("N",) * x.ndim) for i, x in enumerate(inputs))
    body = Body(OpSchema("Formula", ports, (Port("y", "int64", ("N",)),)))
    infos = [
        helper.make_tensor_value_info(port.name, TensorProto.INT64, x.shape)
        for port, x in zip(ports, inputs, strict=True)
    ]
    function = body.function(formula(*body.inputs))
    result = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    model = helper.make_model(
        helper.make_graph(function.node, "formula", infos, [result]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {port.name: x for port, x in zip(ports, inputs, strict=True)}
    return np.asarray(session.run(None, feeds)[0], np.int64)


def magnitudes(bits: int, count: int = 200) -> Int64:
    """Return a column of numbers of all widths up to ``bits``, and those beside powers of two."""
    rng = np.random.default_rng(bits)
    powers = 2 ** np.arange(bits, dtype=np.int64)
    random = rng.integers(0, 2**bits, count) >> rng.integers(0, bits, count)
    return np.unique(np.concatenate([powers - 1, powers, powers[1:] + 1, random]))[:, None]


@pytest.mark.parametrize("shift", [0, 1, 7, 31, 32, 33, 61, 62, 63])
def test_shift_right_of_any_sign(shift):
    x = np.concatenate([magnitudes(62), -magnitudes(62), [[-(2**63)], [2**63 - 1]]])
    np.testing.assert_array_equal(run(lambda v: v >> shift, x), x >> np.int64(shift))


@pytest.mark.parametrize("shift", [0, 1, 31, 61, 62])
def test_round_shift(shift):
    x = np.concatenate([magnitudes(62), -magnitudes(62)])
    amount = np.full_like(x, shift)
    expected = integers.round_shift(x, shift)
    np.testing.assert_array_equal(run(graph.round_shift, x, amount), expected)
    np.testing.assert_array_equal(run(lambda v: graph.round_shift(v, shift), x), expected)


def test_clamps_where_only_the_low_half_differs():
    """Where onnxruntime's own Min, Max, Clip and ReduceMax of int64 go wrong on x86."""
    x = np.array([[-(2**32), 2 - 2**32, -1, 0, 1, 2**31, 2**32 - 2]])
    limit = 2**31 - 1
    np.testing.assert_array_equal(run(lambda v: v.clip(-limit, limit), x), x.clip(-limit, limit))
    assert run(lambda v: v.row_max(), x).tolist() == [[2**32 - 2]]


def test_bit_length():
    x = magnitudes(63)
    np.testing.assert_array_equal(run(graph.bit_length, x), integers.bit_length(x))


def test_isqrt():
    roots = magnitudes(31)[1:]
    x = np.concatenate([magnitudes(62)[1:], roots**2, roots**2 + 1, roots[1:] ** 2 - 1])
    np.testing.assert_array_equal(run(graph.isqrt, x), integers.isqrt(x))


@pytest.mark.parametrize("part", [0, 1], ids=["mantissa", "exponent"])
def test_normalize(part):
    x = magnitudes(62)
    expected = integers.normalize(x, 5)[part]
    np.testing.assert_array_equal(run(lambda v: graph.normalize(v, 5)[part], x), expected)


def test_same_node_is_made_once():
    body = Body(OpSchema("Formula", (Port("x", "int64", ("N",)),), ()))
    (x,) = body.inputs
    assert (x + 1).name == (x + 1).name
    assert (x + 1).name != (x + 2).name


def test_scan_goes_row_by_row():
    """Two scans in one body, so that the names of the nested graphs must differ."""
    rows = np.arange(12).reshape(4, 3)

    def formula(x: Value) -> Value:
        start = x.take(0)
        last, every = x.body.scan(lambda state, row: state * 2 + row, start, [x])
        total, _ = x.body.scan(lambda state, row: state + row, last, [every])
        return total

    state, total = rows[0], np.zeros(3, np.int64)
    for row in rows:
        state = state * 2 + row
        total = total + state
    np.testing.assert_array_equal(run(formula, rows), total + state)
