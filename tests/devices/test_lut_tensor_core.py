"""LUT Tensor Core: the references' integers by look-up; a declared loss with small tables."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from edgellm import ops
from edgellm.device import Call, MatMul
from edgellm.devices import _catalog, _lut_tables, _lut_weights, lut_tensor_core
from edgellm.devices._events import DeviceMemory, Instruction, simulate
from edgellm.dtypes import unpack_ternary
from edgellm.errors import DeviceError
from edgellm.ops import Example

NAME = "lut-tensor-core-4x"
MOST_INPUTS = 4096
"""Of an example: a look-up for each four inputs takes Python long."""


def call_of(op_type: str, example: Example) -> Call:
    outputs = ops.find(op_type).reference(*example.inputs, **example.attributes)
    x = example.inputs[0]
    group = example.attributes.get("group_size", 0)
    ternary = "Bit" in op_type or "Trit" in op_type
    bits = 2 if ternary else 8 if op_type == "Int8Linear" else example.inputs[1].shape[2]
    work = MatMul(m=x.shape[0], k=x.shape[1], n=outputs.shape[1], weight_bits=bits)
    grouped = replace(work, group_size=group, group_bits=24) if group else work
    return Call(op_type=op_type, name="product", work=grouped, attributes=example.attributes)


def examples() -> Iterator[object]:
    for op_type in _lut_weights.DECODERS:
        for example in ops.find(op_type).examples():
            if example.inputs[0].shape[1] <= MOST_INPUTS:
                yield pytest.param(op_type, example, id=f"{op_type}-{example.name}")


@pytest.mark.parametrize(("op_type", "example"), list(examples()))
def test_look_ups_give_the_references_integers(op_type: str, example: Example) -> None:
    device = _catalog.load(NAME)
    call = call_of(op_type, example)

    (result,) = device.run(call, example.inputs)

    assert device.supports(call) is None
    expected = ops.find(op_type).reference(*example.inputs, **example.attributes)
    assert result.dtype == np.int32
    assert np.array_equal(result, expected)


SMALL_BLOCKS = [f"parameters.block_{side}=16" for side in ("rows", "columns", "inputs")]


@pytest.mark.parametrize("op_type", _lut_weights.DECODERS)
def test_many_blocks_and_chunks_give_the_references_integers(op_type: str) -> None:
    sizes = range(100, 1200)
    example = next(one for one in ops.find(op_type).examples() if one.inputs[0].shape[1] in sizes)
    device = _catalog.load(NAME, SMALL_BLOCKS)

    (result,) = device.run(call_of(op_type, example), example.inputs)

    expected = ops.find(op_type).reference(*example.inputs, **example.attributes)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("source", [lut_tensor_core.LOAD, "PRE", lut_tensor_core.LMMA])
def test_a_missing_token_is_a_wrong_answer_or_an_error(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def careless(instructions: list[Instruction], memory: DeviceMemory) -> object:
        return simulate(
            [
                replace(
                    item,
                    waits=tuple(unit for unit in item.waits if unit != source),
                    releases=() if item.unit == source else item.releases,
                )
                for item in instructions
            ],
            memory,
        )

    example = next(iter(ops.find("GroupLinear").examples()))
    monkeypatch.setattr(lut_tensor_core, "simulate", careless)

    with pytest.raises(DeviceError, match="token is missing"):
        _catalog.load(NAME).run(call_of("GroupLinear", example), example.inputs)


def rounded_tables(x: npt.NDArray[np.int8], weight: npt.NDArray[np.int8], lut_bits: int) -> int:
    """Return ``x . weight`` of one ternary row by tables of few bits, one quad after the other."""
    signed = total = 0
    for start in range(0, len(x), 4):
        quad = [int(value) for value in x[start : start + 4]]
        codes = [int(value) + 1 for value in weight[start : start + 4]]
        signs = [[1 if entry >> place & 1 else -1 for place in range(3)] for entry in range(8)]
        table = [
            sum(value * sign for value, sign in zip(quad, [*row, 1], strict=True)) for row in signs
        ]
        bound, shift = 2 ** (lut_bits - 1) - 1, 0
        while (max(map(abs, table)) + (2**shift >> 1)) >> shift > bound:
            shift += 1
        kept = [((value + (2**shift >> 1)) >> shift) << shift for value in table]
        for bit in range(2):
            bits = [code >> bit & 1 for code in codes]
            top = bits[3]
            low = [one if top else 1 - one for one in bits[:3]]
            value = kept[low[0] + 2 * low[1] + 4 * low[2]]
            signed += (value if top else -value) << bit
        total += sum(quad)
    return ((signed + 3 * total) >> 1) - total


def test_tables_of_eight_bits_lose_what_they_declare() -> None:
    """LUT Tensor Core's int8 tables: equal to their own reference, not to the exact product."""
    example = next(
        example for example in ops.find("BitLinear").examples() if example.name == "random_3x64x32"
    )
    device = _catalog.load(NAME, ["parameters.lut_bits=8"])

    (result,) = device.run(call_of("BitLinear", example), example.inputs)

    x, packed = example.inputs
    weight = unpack_ternary(packed, x.shape[1])
    expected = [[rounded_tables(row, line, 8) for line in weight] for row in x]
    assert np.array_equal(result, np.array(expected, np.int32))
    assert not np.array_equal(result, ops.find("BitLinear").reference(x, packed))


def test_eleven_bits_hold_every_sum_of_four_codes() -> None:
    extremes = np.array([[127, 127, 127, 127, -127, -127, -127, -127]], np.int8)

    table = _lut_tables.tables(extremes, 11)

    assert np.abs(table).max() == 508 < 2 ** (_lut_tables.EXACT_BITS - 1)
    assert np.array_equal(table, _lut_tables.tables(extremes, 32))


def test_cycles_are_bits_times_tiles() -> None:
    device = _catalog.load(NAME)
    costs = {}
    for bits in (1, 2, 4):
        work = MatMul(m=2048, k=4096, n=4096, weight_bits=bits)
        costs[bits] = device.cost(Call(op_type="Linear", name="product", work=work))

    busy = {bits: cost.busy_s[lut_tensor_core.LMMA] for bits, cost in costs.items()}
    assert busy[2] == pytest.approx(2 * busy[1])
    assert busy[4] == pytest.approx(4 * busy[1])
    peak = 1247.5e12 * _catalog.describe(NAME).cores.parallel_efficiency  # of two-bit weights
    assert 2 * costs[2].macs / busy[2] == pytest.approx(peak, rel=1e-3)


def test_tables_by_a_kernel_of_their_own_cost_more() -> None:
    """The paper has 16 to 24 % over whole models, whose products share tables; here none do."""
    work = MatMul(m=2048, k=3200, n=3200, weight_bits=2)
    call = Call(op_type="Linear", name="product", work=work)

    fused = _catalog.load(NAME).cost(call)
    apart = _catalog.load(NAME, ["parameters.fused=0"]).cost(call)

    assert 1.1 < apart.seconds / fused.seconds < 2


def test_what_it_cannot_do_is_refused_with_a_reason() -> None:
    device = _catalog.load(NAME)
    wide = Call(op_type="Linear", name="c", work=MatMul(m=1, k=8, n=8, activation_bits=16))
    head = Call(op_type="LogitsHead", name="b", work=MatMul(m=1, k=8, n=8))

    for call in (wide, head):
        refusal = device.supports(call)
        assert refusal is not None
        assert refusal.reason
        with pytest.raises(DeviceError, match=NAME):
            device.cost(call)
    with pytest.raises(DeviceError, match="lut_bits"):
        _catalog.load(NAME, ["parameters.lut_bits=1"])
    with pytest.raises(DeviceError, match="no metric 'speed'"):
        lut_tensor_core.Device(_catalog.describe(NAME)).metric("speed")
