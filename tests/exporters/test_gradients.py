"""Gradients of float graphs against differences, and what they say of single outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgellm.exporters.gradients import RULES, active_values, backward

RNG = np.random.default_rng(9)


def wide(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 2.0, shape).astype(np.float32)


CASES: list[tuple[str, list[np.ndarray], dict[str, object]]] = [
    ("Add", [wide(3, 4), wide(4)], {}),
    ("Concat", [wide(2, 3), wide(2, 2)], {"axis": 1}),
    ("Div", [wide(3, 4), positive(3, 1)], {}),
    ("Gather", [wide(3, 2, 4), np.array(1)], {"axis": 1}),
    ("Gelu", [wide(3, 4)], {"approximate": "tanh"}),
    ("Gemm", [wide(3, 4), wide(5, 4)], {"transB": 1}),
    ("Identity", [wide(3)], {}),
    ("LayerNormalization", [wide(3, 4), wide(4), wide(4)], {"epsilon": 1e-5}),
    ("MatMul", [wide(2, 3, 4), wide(2, 4, 5)], {}),
    ("MatMul", [wide(2, 3, 4), wide(4, 5)], {}),
    ("MatMul", [wide(2, 2, 3, 4), wide(2, 1, 4, 5)], {}),
    ("Mul", [wide(3, 4), wide(3, 1)], {}),
    ("Neg", [wide(3)], {}),
    ("Reciprocal", [positive(3)], {}),
    ("ReduceL2", [wide(3, 4), np.array([1])], {}),
    ("ReduceMean", [wide(3, 4, 2), np.array([1])], {"keepdims": 0}),
    ("ReduceMean", [wide(3, 4), np.array([-1])], {}),
    ("Relu", [wide(3, 4)], {}),
    ("Reshape", [wide(3, 4), np.array([2, 6])], {}),
    ("Sigmoid", [wide(3, 4)], {}),
    ("Softmax", [wide(3, 4)], {"axis": -1}),
    ("Sqrt", [positive(3)], {}),
    ("Sub", [wide(4), wide(3, 4)], {}),
    ("Transpose", [wide(2, 3, 4)], {"perm": (2, 0, 1)}),
]


def compute(op_type: str, inputs: list[np.ndarray], attributes: dict[str, object]) -> np.ndarray:
    names = [f"x{place}" for place in range(len(inputs))]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph([node], "one", ports, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, dict(zip(names, inputs, strict=True)))[0])


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), CASES)
def test_gradients_are_slopes(
    op_type: str, inputs: list[np.ndarray], attributes: dict[str, object]
) -> None:
    y = compute(op_type, inputs, attributes)
    seed = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    names = [f"x{place}" for place in range(len(inputs))]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    # Of weights no gradient is asked for.
    has_weight = op_type in ("Gemm", "LayerNormalization") or inputs[-1].shape == (4, 5)
    wanted = names[:1] if has_weight else names
    wanted = [name for name, x in zip(names, inputs, strict=True)
              if name in wanted and x.dtype == np.float32]  # fmt: skip
    values = {**dict(zip(names, inputs, strict=True)), "y": y}

    found = backward([node], values, {"y": seed}, wanted, wanted)

    for name in wanted:
        place = names.index(name)
        step = np.random.default_rng(2).normal(size=inputs[place].shape).astype(np.float32)
        step /= np.abs(step).max()
        moved = [[*inputs[:place], inputs[place] + sign * 1e-2 * step, *inputs[place + 1 :]]
                 for sign in (1, -1)]  # fmt: skip
        up, down = (compute(op_type, each, attributes).astype(np.float64) for each in moved)
        slope = float((seed * (up - down)).sum() / 2e-2)
        # float32 has an error of 2^-24 a value, and a step of 1e-2 curves the functions by 1e-3
        assert float((found[name] * step).sum()) == pytest.approx(slope, rel=0.01, abs=5e-3)


def test_every_rule_is_tested() -> None:
    assert {case[0] for case in CASES} == set(RULES)


def test_values_that_do_not_depend_on_a_source_have_no_gradient() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["m"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]

    assert active_values(nodes, ["x"]) == {"x", "y"}
