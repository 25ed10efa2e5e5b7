"""What kernels and the executor need and Python has no word for, as LLVM: imported only to compile.

Operands from a row of the program, scratch memory on the stack, a call through an address, atomics.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

import time
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic, lower_builtin, type_callable
from numba.np.arrayobj import populate_array

from edgellm.ops import OpSchema

INT64 = ir.IntType(64)


def operands(schema: OpSchema) -> Any:  # noqa: ANN401
    """Return an intrinsic: address of a row -> the arrays and attributes that it describes."""
    ports = [*schema.inputs, *schema.outputs]
    arrays = [types.Array(getattr(types, port.dtype), len(port.dims), "C") for port in ports]
    attributes = [types.int64] * len(schema.attributes)
    result = types.Tuple([*arrays, *attributes])
    places = {letter: 1 + len(ports) + i for i, letter in enumerate(schema.letters)}
    first_attribute = 1 + len(ports) + len(places)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        row = builder.inttoptr(arguments[0], INT64.as_pointer())

        def field(place: int) -> Any:  # noqa: ANN401
            return builder.load(builder.gep(row, [INT64(place)]))

        def size(dim: str) -> Any:  # noqa: ANN401
            total = INT64(0)
            for term in dim.split("+"):
                product = INT64(1)
                for factor in term.split("*"):
                    known = factor.isdigit()
                    number = INT64(int(factor)) if known else field(places[factor])
                    product = builder.mul(product, number)
                total = builder.add(total, product)
            return total

        values = [
            _array(context, builder, kind, field(1 + i), [size(dim) for dim in port.dims])
            for i, (port, kind) in enumerate(zip(ports, arrays, strict=True))
        ]
        values += [field(first_attribute + i) for i in range(len(attributes))]
        return context.make_tuple(builder, result, values)

    @intrinsic
    def row_operands(_typing: Any, call: Any) -> Any:  # noqa: ANN401
        return result(call), generate

    return row_operands


def notes(schema: OpSchema, words: int) -> Any:  # noqa: ANN401
    """Return an intrinsic: address of a row, number of threads -> their notes, ``words`` each."""
    fields = len(schema.inputs) + len(schema.outputs) + len(schema.letters) + len(schema.attributes)
    kind = types.Array(types.int64, 2, "C")

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        row = builder.inttoptr(arguments[0], INT64.as_pointer())
        address = builder.load(builder.gep(row, [INT64(1 + fields)]))
        return _array(context, builder, kind, address, [arguments[1], INT64(words)])

    @intrinsic
    def row_notes(_typing: Any, call: Any, threads: Any) -> Any:  # noqa: ANN401
        return kind(call, threads), generate

    return row_notes


def _array(context: Any, builder: Any, kind: Any, address: Any, shape: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return an array value over memory at an address (an i64), C order."""
    element = context.get_data_type(kind.dtype)
    item_size = INT64(context.get_abi_sizeof(element))
    strides = [item_size]
    for size in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(address, element.as_pointer())
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=item_size, meminfo=None)
    return array._getvalue()


def place_on_stack(function: Callable[..., Any], dtype: str) -> None:
    """Make ``function(size)`` of compiled code return ``size`` elements of the caller's stack."""
    kind = types.Array(getattr(types, dtype), 1, "C")

    @type_callable(function)
    def type_stack(_context: Any) -> Any:  # noqa: ANN401
        return lambda size: kind if isinstance(size, types.IntegerLiteral) else None

    @lower_builtin(function, types.IntegerLiteral)
    def lower_stack(context: Any, builder: Any, signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        count = signature.args[0].literal_value
        block = ir.ArrayType(context.get_data_type(kind.dtype), count)
        with builder.goto_entry_block():  # once a call, not once a loop
            memory = builder.alloca(block)
        memory.align = 64
        address = builder.ptrtoint(memory, INT64)
        return _array(context, builder, kind, address, [INT64(count)])


def make_flat(function: Callable[..., Any]) -> None:
    """Make ``function(matrix)`` of compiled code return the same memory as one row."""

    @type_callable(function)
    def type_row(_context: Any) -> Any:  # noqa: ANN401
        return lambda matrix: types.Array(matrix.dtype, 1, "C") if matrix.layout == "C" else None

    @lower_builtin(function, types.Array)
    def lower_row(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        count = builder.mul(*cgutils.unpack_tuple(builder, matrix.shape))
        address = builder.ptrtoint(matrix.data, INT64)
        return _array(context, builder, signature.return_type, address, [count])


def make_heads(function: Callable[..., Any]) -> None:
    """Make ``function(codes, dim)`` of compiled code return the same memory as (rows, 1, dim)."""

    @type_callable(function)
    def type_heads(_context: Any) -> Any:  # noqa: ANN401
        return lambda codes, dim: types.Array(codes.dtype, 3, "C")

    @lower_builtin(function, types.Array, types.Integer)
    def lower_heads(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        codes = context.make_array(signature.args[0])(context, builder, arguments[0])
        dim = context.cast(builder, arguments[1], signature.args[1], types.int64)
        (count,) = cgutils.unpack_tuple(builder, codes.shape)
        address = builder.ptrtoint(codes.data, INT64)
        shape = [builder.udiv(count, dim), INT64(1), dim]
        return _array(context, builder, signature.return_type, address, shape)


def count_bits(function: Callable[..., Any]) -> None:
    """Make ``function(value)`` of compiled code return how many bits a value has, 0 below 1."""

    @type_callable(function)
    def type_bits(_context: Any) -> Any:  # noqa: ANN401
        return lambda value: types.int64 if isinstance(value, types.Integer) else None

    @lower_builtin(function, types.Integer)
    def lower_bits(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        value = context.cast(builder, arguments[0], signature.args[0], types.int64)
        bits = builder.sub(INT64(64), builder.ctlz(value, ir.Constant(ir.IntType(1), 0)))
        is_negative = builder.icmp_signed("<", value, INT64(0))
        return builder.select(is_negative, INT64(0), bits)


def _pointer(builder: Any, address: Any) -> Any:  # noqa: ANN401
    return builder.inttoptr(address, INT64.as_pointer())


@intrinsic
def load(_typing: Any, address: Any) -> Any:  # noqa: ANN401
    """``load(address)``: the int64 there."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.load(_pointer(builder, arguments[0]))

    return types.int64(address), generate


@intrinsic
def load_acquire(_typing: Any, address: Any) -> Any:  # noqa: ANN401
    """``load_acquire(address)``: the int64 there; what was written before it is visible then."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(address), generate


@intrinsic
def store(_typing: Any, address: Any, value: Any) -> Any:  # noqa: ANN401
    """``store(address, value)``: write an int64 there."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        builder.store(arguments[1], _pointer(builder, arguments[0]))
        return context.get_dummy_value()

    return types.void(address, types.int64), generate


@intrinsic
def exchange(_typing: Any, address: Any, value: Any) -> Any:  # noqa: ANN401
    """``exchange(address, value)``: write atomically, return the old value; all agree on the order.

    So of two threads that write one word each and then look at the other's, one sees it.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.atomic_rmw("xchg", _pointer(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(address, types.int64), generate


@intrinsic
def fetch_add(_typing: Any, address: Any, value: Any) -> Any:  # noqa: ANN401
    """``fetch_add(address, value)``: add atomically, as ``exchange``; return the old value."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(address, value), generate


@intrinsic
def stack_words(_typing: Any, count: Any) -> Any:  # noqa: ANN401
    """``stack_words(count)``: the address of so many int64 of the caller's stack, a constant."""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue(count)
    block = ir.ArrayType(INT64, count.literal_value)

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        with builder.goto_entry_block():  # once a call, not once a loop
            memory = builder.alloca(block)
        return builder.ptrtoint(memory, INT64)

    return types.int64(count), generate


@intrinsic
def call_row(_typing: Any, function: Any, row: Any, thread: Any, threads: Any) -> Any:  # noqa: ANN401
    """``call_row(function, row, thread, threads)``: call a kernel by its address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        kind = ir.FunctionType(ir.VoidType(), [INT64] * 3)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return _context.get_dummy_value()

    return types.void(function, row, thread, threads), generate


@intrinsic
def pause(_typing: Any) -> Any:  # noqa: ANN401
    """``pause()``: tell the core that this is a spin loop."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        machine = binding.get_process_triple().partition("-")[0]
        if machine == "x86_64":
            _call_void(builder, "llvm.x86.sse2.pause", [])
        elif machine in ("aarch64", "arm64"):
            _call_void(builder, "llvm.aarch64.hint", [ir.IntType(32)(1)])  # 1 is YIELD
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def prefetch(_typing: Any, address: Any) -> Any:  # noqa: ANN401
    """``prefetch(address)``: have the cache line there in the level-2 cache soon."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        int32 = ir.IntType(32)
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        for_reading, level_2, data = int32(0), int32(2), int32(1)
        _call_void(builder, "llvm.prefetch.p0", [place, for_reading, level_2, data])
        return context.get_dummy_value()

    return types.void(address), generate


@intrinsic
def sched_yield(_typing: Any) -> Any:  # noqa: ANN401
    """``sched_yield()``: the C library's; another thread may have the core."""

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        kind = ir.FunctionType(ir.IntType(32), [])
        function = cgutils.get_or_insert_function(builder.module, kind, "sched_yield")
        return builder.sext(builder.call(function, []), INT64)

    return types.int64(), generate


@intrinsic
def usleep(_typing: Any, microseconds: Any) -> Any:  # noqa: ANN401
    """``usleep(microseconds)``: the C library's; this thread sleeps at least so long."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
        function = cgutils.get_or_insert_function(builder.module, kind, "usleep")
        duration = builder.trunc(arguments[0], ir.IntType(32))
        return builder.sext(builder.call(function, [duration]), INT64)

    return types.int64(types.int64), generate


@intrinsic
def nanoseconds(_typing: Any) -> Any:  # noqa: ANN401
    """``nanoseconds()``: a clock that never goes back, by the C library's clock_gettime."""
    clock = ir.IntType(32)(time.CLOCK_MONOTONIC)

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), INT64.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        with builder.goto_entry_block():
            pair = builder.alloca(INT64, size=INT64(2))  # seconds and nanoseconds
        builder.call(function, [clock, pair])
        seconds = builder.load(pair)
        rest = builder.load(builder.gep(pair, [INT64(1)]))
        return builder.add(builder.mul(seconds, INT64(10**9)), rest)

    return types.int64(), generate


def _call_void(builder: Any, name: str, arguments: Sequence[Any]) -> None:  # noqa: ANN401
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
