"""MixPE: the integers of the references, by shifts and additions, in the order of its tokens."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgellm import ops
from edgellm.device import Attention, Call, MatMul
from edgellm.devices import _catalog, _linear_weights, _mixpe_program, mixpe
from edgellm.devices._events import DeviceMemory, simulate
from edgellm.errors import DeviceError
from edgellm.ops import Example


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
    for op_type in _linear_weights.DECODERS:
        for example in ops.find(op_type).examples():
            yield pytest.param(op_type, example, id=f"{op_type}-{example.name}")


@pytest.mark.parametrize(("op_type", "example"), list(examples()))
def test_shifts_and_additions_give_the_references_integers(op_type: str, example: Example) -> None:
    device = _catalog.load("mixpe")
    call = call_of(op_type, example)

    (result,) = device.run(call, example.inputs)

    assert device.supports(call) is None
    expected = ops.find(op_type).reference(*example.inputs, **example.attributes)
    assert result.dtype == np.int32
    assert np.array_equal(result, expected)


def test_many_blocks_and_chunks_give_the_references_integers() -> None:
    device = _catalog.load(
        "mixpe", ["array.m=4", "array.n=4", "buffer.outputs.bytes=256", "buffer.weights.bytes=512"]
    )
    example = next(
        example for example in ops.find("GroupLinear").examples() if example.name == "many_tokens"
    )
    call = call_of("GroupLinear", example)

    (result,) = device.run(call, example.inputs)

    assert len(list(device.compile([call]))) > 300
    expected = ops.find("GroupLinear").reference(*example.inputs, **example.attributes)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("source", [mixpe.LOAD, mixpe.GEMM, mixpe.DEQUANT])
def test_a_missing_token_is_a_wrong_answer_or_an_error(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Without the tokens of one unit, units behind it read what is not there yet."""

    def careless(instructions: list[mixpe.Instruction], memory: DeviceMemory) -> object:
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
    monkeypatch.setattr(mixpe, "simulate", careless)

    with pytest.raises(DeviceError, match="token is missing"):
        _catalog.load("mixpe").run(call_of("GroupLinear", example), example.inputs)


def test_products_without_a_multiplier() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-127, 128, (3, 40))
    codes = rng.integers(0, 16, (5, 40))

    assert np.array_equal(_mixpe_program.shift_and_add(x, codes, 4), x @ codes.T)


def test_what_it_cannot_do_is_refused_with_a_reason() -> None:
    device = _catalog.load("mixpe")
    attention = Attention(tokens=1, length=8, heads=1, kv_heads=1, head_dim=8)
    wide = MatMul(m=1, k=8, n=8, activation_bits=16)

    for call in (
        Call(op_type="Attention", name="a", work=attention),
        Call(op_type="LogitsHead", name="b", work=MatMul(m=1, k=8, n=8)),
        Call(op_type="Linear", name="c", work=wide),
    ):
        refusal = device.supports(call)
        assert refusal is not None
        assert refusal.reason
        with pytest.raises(DeviceError, match="mixpe: "):
            device.cost(call)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("mixpe", 4, 8192),
        ("mixpe-ant", 4, 2048),
        ("mixpe-bitfusion", 8, 1280),
        ("mixpe-int8", 8, 1024),
        ("mixpe-fp16", 8, 896),
    ],
)
def test_products_a_cycle(name: str, precision: int, expected: int) -> None:
    """A product whose sizes are multiples of every array: 64 x 128 and 32 x 28."""
    device = _catalog.load(name)
    work = MatMul(m=64, k=4096, n=128 * 28 * 5, weight_bits=precision)

    cost = device.cost(Call(op_type="Linear", name="product", work=work))

    cycles = cost.busy_s[mixpe.GEMM] * 500e6
    assert work.macs / cycles == pytest.approx(expected, rel=1e-9)
