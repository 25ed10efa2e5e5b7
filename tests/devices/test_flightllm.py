"""FlightLLM: the references' integers by its instructions; times, words and lengths by hand."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from edgellm import ops
from edgellm.device import Array, Attention, Call, Elementwise, ForwardPass, MatMul, Move
from edgellm.devices import _catalog, _flightllm_sparse, _shapes
from edgellm.devices._events import Instruction, simulate
from edgellm.devices._flightllm_isa import Pipeline, Step, Stream, first_word
from edgellm.devices.flightllm import Device
from edgellm.dtypes import pack_bit_planes
from edgellm.errors import DeadlockError, DeviceError
from edgellm.ops import Example

LARGEST = 20_000
"""Elements of the largest input of the examples that are run here; the longest take seconds."""
CRAMPED = ["buffer.global.bytes=64", "buffer.A.bytes=262144", "parameters.mv_inputs=64"]
"""Changes by which small examples have many tiles, and results that do not fit on the chip."""


@cache
def load(*changes: str) -> Device:
    device = _catalog.load("flightllm-u280", changes)
    assert isinstance(device, Device)
    return device


def call_of(op_type: str, example: Example) -> Call:
    schema = ops.find(op_type).SCHEMA
    letters = schema.bind([value.shape for value in example.inputs])
    work = ops.find(op_type).work({**letters, **example.attributes})
    return Call(op_type=op_type, name=op_type, work=work, attributes=example.attributes)


def expected(op_type: str, example: Example) -> tuple[Array, ...]:
    found = ops.find(op_type).reference(*example.inputs, **example.attributes)
    return found if isinstance(found, tuple) else (found,)


def check(results: tuple[Array, ...], wanted: tuple[Array, ...]) -> None:
    assert len(results) == len(wanted)
    for result, want in zip(results, wanted, strict=True):
        assert result.dtype == want.dtype
        assert np.array_equal(result, want)


def examples() -> Iterator[object]:
    for op_type in (module.SCHEMA.name for module in ops.modules()):
        for example in ops.find(op_type).examples():
            if max(value.size for value in example.inputs) <= LARGEST:
                yield pytest.param(op_type, example, id=f"{op_type}-{example.name}")


@pytest.mark.parametrize("changes", [[], CRAMPED], ids=["as_is", "cramped"])
@pytest.mark.parametrize(("op_type", "example"), list(examples()))
def test_instructions_give_the_references_integers(
    op_type: str, example: Example, changes: list[str]
) -> None:
    device = load(*changes)
    call = call_of(op_type, example)

    refusal = device.supports(call)

    if refusal is not None:
        unknown = ("CodebookLinear", "GatedRecurrence", "Int4Attention", "TrellisLinear")
        assert op_type in unknown or call.work == Move(bytes=0)
        with pytest.raises(DeviceError, match="does not run"):
            device.run(call, example.inputs)
        return
    check(device.run(call, example.inputs), expected(op_type, example))


def many_rows() -> Iterator[tuple[str, Example]]:
    """Yield examples of more rows than a block of MM has."""
    rng = np.random.default_rng(5)

    def codes(*shape: int) -> Array:
        return rng.integers(-127, 128, shape).astype(np.int8)

    yield "Int8Linear", Example("int8", (codes(300, 90), codes(50, 90)), {})
    planes = pack_bit_planes(rng.integers(0, 2, (4, 50, 90)).astype(np.uint8))
    scale = rng.integers(-99, 99, (3, 50)).astype(np.int16)
    zero = rng.integers(0, 16, (3, 50)).astype(np.uint8)
    grouped = (codes(140, 90), planes, scale, zero)
    yield "GroupLinear", Example("group", grouped, {"group_size": 32, "shift": 5})
    wide = rng.integers(-(2**20), 2**20, (300, 32)).astype(np.int32)
    absmax = rng.integers(1, 2**20, (2, 310, 2)).astype(np.int32)
    heads = (wide, codes(310, 2, 8), absmax[0], codes(310, 2, 8), absmax[1])
    for window in (0, 130):
        scaling = {"scaling_mantissa": 2**30 + 1, "scaling_exponent": 86, "window": window}
        yield "Attention", Example(f"attention_{window}", heads, scaling)


@pytest.mark.parametrize("changes", [[], CRAMPED], ids=["as_is", "cramped"])
@pytest.mark.parametrize(("op_type", "example"), list(many_rows()), ids=lambda item: str(item)[:9])
def test_blocks_of_rows_give_the_references_integers(
    op_type: str, example: Example, changes: list[str]
) -> None:
    device = load(*changes)
    call = call_of(op_type, example)
    units = {item.unit for item in device.compile([call])}

    assert "MM" in units
    assert ("ST" in units) == bool(changes)
    check(device.run(call, example.inputs), expected(op_type, example))


def sparse_call(rng: np.random.Generator) -> tuple[Call, Example]:
    weight = rng.integers(-127, 128, (1100, 200)) * (rng.random((1100, 200)) < 0.2)
    weight[:, 32:48] = 0
    inputs = (rng.integers(-127, 128, (3, 200)).astype(np.int8), weight.astype(np.int8))
    example = Example("sparse", inputs, {})
    call = call_of("Int8Linear", example)
    return replace(call, work=replace(call.work, density=0.5, index_bits=4)), example


def test_sparse_blocks_give_the_same_integers() -> None:
    call, example = sparse_call(np.random.default_rng(1))
    device = load(*CRAMPED)

    check(device.run(call, example.inputs), expected("Int8Linear", example))


def test_a_block_stores_the_smallest_n_that_holds_its_weights() -> None:
    weights = np.zeros((32, 48), np.int8)
    weights[3, :5] = [1, 2, 3, 4, 5]  # 5 of 16: N = 8
    weights[20, 16:32] = 7  # dense

    tile = _flightllm_sparse.encode(weights, (2, 4, 8, 16))

    assert tile.kept.tolist() == [[8, 2, 2], [2, 16, 2]]
    assert len(tile.values) == 16 * (8 + 2 + 2 + 2 + 16 + 2)
    assert len(tile.meta) == len(tile.values) - 16 * 16
    assert tile.stored_bits(8, 4) == 8 * len(tile.values) + 4 * len(tile.meta) + 8 * 6
    assert tile.density == len(tile.values) / (32 * 48)
    assert np.array_equal(_flightllm_sparse.multiply(np.eye(48, dtype=np.int8), tile), weights.T)


def without(program: list[Instruction], first: str, then: str) -> list[Instruction]:
    """Take the tokens of one unit to another out of a program."""
    return [
        replace(
            item,
            waits=tuple(unit for unit in item.waits if (unit, item.unit) != (first, then)),
            releases=tuple(unit for unit in item.releases if (item.unit, unit) != (first, then)),
        )
        for item in program
    ]


@pytest.mark.parametrize(
    ("op_type", "name", "first", "then"),
    [
        ("Int8Linear", "sparse", "LD", "MV"),
        ("Int8Linear", "sparse", "MV", "LD"),
        ("GroupLinear", "one_token", "MV", "MISC"),
        ("Attention", "random_3_of_70_1x3x80", "LD", "MM"),
        ("Attention", "random_3_of_70_1x3x80", "MM", "MISC"),
        ("Attention", "random_3_of_70_1x3x80", "MISC", "MM"),
        ("RmsNormQuantize", "", "LD", "MISC"),
        ("RmsNormQuantize", "", "MISC", "ST"),
    ],
)
def test_missing_tokens_are_a_wrong_answer_or_an_error(
    op_type: str, name: str, first: str, then: str
) -> None:
    call, example = sparse_call(np.random.default_rng(1))
    if name != "sparse":
        found = [item for item in ops.find(op_type).examples() if item.name == name or not name]
        example = max(found, key=lambda item: item.inputs[0].size)
        call = call_of(op_type, example)
    device = load(*CRAMPED)
    program, effects = device.program(call, example.inputs)
    program = without(program, first, then)

    try:
        simulate(program, effects.memory)
        results = effects.outputs()
    except DeviceError:
        return
    pairs = zip(results, expected(op_type, example), strict=True)
    assert not all(np.array_equal(result, want) for result, want in pairs)


def test_a_token_too_few_is_a_deadlock() -> None:
    call, example = sparse_call(np.random.default_rng(1))
    device = load(*CRAMPED)
    program, effects = device.program(call, example.inputs)
    at = next(index for index, item in enumerate(program) if item.unit == "LD")
    silent = [*program[:at], replace(program[at], releases=()), *program[at + 1 :]]

    with pytest.raises(DeadlockError, match="MV"):
        simulate(silent, effects.memory)


def test_masks_have_a_bit_for_each_other_unit() -> None:
    instruction = Instruction("MV", 1, "", waits=("LD", "MISC"), releases=("LD",))

    # opcode 4; of LD ST MM MISC SYS, LD is bit 0 and MISC is bit 3
    assert first_word(instruction) == 0b0100_01001_00001


@pytest.mark.parametrize("cycles", [(5, 3, 2), (2, 5, 3), (1, 1, 9), (4, 4, 4)])
@pytest.mark.parametrize("tiles", [1, 2, 3, 20])
@pytest.mark.parametrize("overlap", [False, True])
def test_the_closed_form_is_the_events_time(
    cycles: tuple[int, int, int], tiles: int, overlap: bool
) -> None:
    units = zip(("LD", "MV", "ST"), cycles, strict=True)
    steps = tuple(Step(unit=unit, role=unit, cycles=count) for unit, count in units)
    pipeline = Pipeline(steps=steps, tiles=tiles, overlap=overlap)
    stream = Stream()
    stream.add("call", (pipeline, pipeline), None)

    timeline = simulate(stream.finish())

    assert timeline.cycles == 2 * pipeline.cycles + 1  # and the barrier
    assert timeline.tokens_left == 0


@pytest.mark.parametrize("name", ["flightllm-u280", "flightllm-vhk158"])
@pytest.mark.parametrize("tokens", [1, 128])
def test_both_engines_agree_on_a_layer_of_llama(name: str, tokens: int) -> None:
    device = _catalog.load(name)
    forward = device.compiled_for(ForwardPass(tokens=tokens, past=0 if tokens > 1 else 500))
    layer = _shapes.workload("llama2-7b", "w4a8qk0.7").blocks(forward)[1]

    timeline = simulate(device.compile(layer.calls))

    expected_cycles = sum(device.cost(call).cycles for call in layer.calls)
    assert timeline.cycles == pytest.approx(expected_cycles, rel=1e-4)


def test_a_product_by_hand() -> None:
    """One token, 4096 x 4096 in 4 bits on the U280: 32 tiles of 512 x 1024, bound by loading."""
    device = load()
    call = Call(op_type="Linear", name="o", work=MatMul(m=1, k=4096, n=4096, weight_bits=4))

    cost = device.cost(call)

    rate = 460e9 * 24 / 32 * 0.7 * 0.8
    products = 512 * 1024 / 1024 / (3 * 0.8) / 225e6
    assert cost.bytes == {"hbm": 4096 * 4096 / 2}
    assert cost.bound == "LD"
    assert cost.seconds == pytest.approx(4096 * 4096 / 2 / rate + products)


@pytest.mark.parametrize(
    ("forward", "compiled"),
    [
        (ForwardPass(tokens=1, past=0), ForwardPass(tokens=1, past=15)),
        (ForwardPass(tokens=1, past=15), ForwardPass(tokens=1, past=15)),
        (ForwardPass(tokens=1, past=16), ForwardPass(tokens=1, past=31)),
        (ForwardPass(tokens=2), ForwardPass(tokens=128)),
        (ForwardPass(tokens=129, past=3), ForwardPass(tokens=256, past=16)),
    ],
)
def test_lengths_are_rounded_to_those_of_programs(
    forward: ForwardPass, compiled: ForwardPass
) -> None:
    assert load().compiled_for(forward) == compiled


def test_what_is_too_long_is_refused() -> None:
    device = load()

    with pytest.raises(DeviceError, match="at most 2048"):
        device.compiled_for(ForwardPass(tokens=1, past=2048))


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (MatMul(m=1, k=16, n=16, activation_bits=16), "not w8a16"),
        (MatMul(m=1, k=16, n=16, weight_bits=16), "not w16a8"),
        (Elementwise(kind="recurrence", elements=16), "no recurrence"),
        (Attention(tokens=1, length=4096, heads=1, kv_heads=1, head_dim=16), "4096 keys"),
        (Attention(tokens=1, length=16, heads=1, kv_heads=1, head_dim=16, kv_bits=4), "4 bits"),
    ],
)
def test_refusals_say_why(work: MatMul | Elementwise | Attention, reason: str) -> None:
    refusal = load().supports(Call(op_type="x", name="x", work=work))

    assert refusal is not None
    assert reason in refusal.reason


def test_a_program_of_128_tokens_is_as_long_as_the_artifacts() -> None:
    """1,825,930 instructions, 34.07 MB a core, in the artifact."""
    device = _catalog.load("flightllm-vhk158")
    blocks = _shapes.workload("llama2-7b", "w4a8qk0.7").blocks(ForwardPass(tokens=128))

    stored = sum(device.stored_bytes(block.calls) * block.repeats for block in blocks)

    assert stored == pytest.approx(34.07e6, rel=0.03)
