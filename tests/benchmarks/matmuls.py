"""Single matrix products, one core: every kernel variant, onnxruntime, NumPy, and the limits.

    python tests/benchmarks/matmuls.py [ROUNDS]

"memory" walks over copies of the weights of 1 GB together, "cached" repeats one of them. Times are
of the thread (``time.thread_time``), so that other programs on the machine do not count; they slow
the memory all the same, so its bandwidth is measured in each round. Medians over the rounds.
"""

import ctypes
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgellm.dtypes import packed_columns
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import _objects, simd
from edgellm.runtime.limits import dot_peak
from tests.benchmarks.operands import copies_in_huge_pages, in_huge_pages

SHAPES = ((2560, 6912), (6912, 2560), (2560, 2560))
TOKENS = 128
MEMORY_BYTES = 1 << 30
REPETITIONS = 16
BLOCK = 128

Call = Callable[[int], object]


@dataclass(frozen=True)
class Contender:
    """Something that multiplies: ``call(i)`` uses the copy i of its weights."""

    name: str
    call: Call
    copies: int
    weight_bytes: int


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    host = cpu.host()
    write(f"{host.model} ({host.name}); variants: {', '.join(simd.available(host))}; one core")
    big = np.ones(MEMORY_BYTES // 8, np.int64)
    for columns, rows in SHAPES:
        report_one_token(columns, rows, rounds, big)
    report_many_tokens(2560, 6912, rounds)


def report_one_token(columns: int, rows: int, rounds: int, big: np.ndarray) -> None:
    contenders = [*kernel_contenders(1, columns, rows, copies=True), nbits(1, columns, rows)]
    seconds = defaultdict(list)
    for _ in range(rounds):
        seconds["read"].append(timed(lambda _: big.sum(), 1))
        for one in contenders:
            seconds[one.name, "memory"].append(timed(one.call, max(REPETITIONS, one.copies // 4)))
            seconds[one.name, "cached"].append(timed(lambda _, one=one: one.call(0), REPETITIONS))
    bandwidth = big.nbytes / median(seconds["read"])
    write(f"\n{columns} x {rows}, one token; read bandwidth {bandwidth / 1e9:.1f} GB/s (NumPy sum)")
    for one in contenders:
        memory = median(seconds[one.name, "memory"])
        cached = median(seconds[one.name, "cached"])
        speed = one.weight_bytes / memory
        write(
            f"  {one.name:26} memory {memory * 1e6:7.0f} us {speed / 1e9:6.1f} GB/s "
            f"({speed / bandwidth:4.0%})   cached {cached * 1e6:7.0f} us "
            f"{one.weight_bytes / cached / 1e9:6.1f} GB/s"
        )


def report_many_tokens(columns: int, rows: int, rounds: int) -> None:
    contenders = [
        *kernel_contenders(TOKENS, columns, rows, copies=False),
        nbits(TOKENS, columns, rows),
        float_gemm(TOKENS, columns, rows),
    ]
    seconds, peaks = defaultdict(list), []
    variant = simd.chosen(cpu.host())
    for _ in range(rounds):
        peaks.append(dot_peak(variant, 1) or 0.0)
        for one in contenders:
            seconds[one.name].append(timed(one.call, 1))
    peak = median(peaks)
    write(
        f"\n{columns} x {rows}, {TOKENS} tokens; {peak / 1e9:.0f} GMAC/s are what dot products of "
        f"registers reach ({variant})"
    )
    for one in contenders:
        taken = median(seconds[one.name])
        rate = TOKENS * columns * rows / taken
        share = f" ({rate / peak:4.0%})" if peak else ""
        write(f"  {one.name:26} {taken * 1e3:8.2f} ms {rate / 1e9:7.1f} GMAC/s{share}")


def kernel_contenders(tokens: int, columns: int, rows: int, *, copies: bool) -> list[Contender]:
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (tokens, columns), np.int8)
    acc = np.empty((tokens, rows), np.int32)
    found = []
    for op_type, weight in (
        ("BitLinear", rng.integers(0, 256, (rows, packed_columns(columns)), np.uint8) & 0xAA),
        ("Int8Linear", rng.integers(-127, 128, (rows, columns), np.int8)),
    ):
        count = -(-MEMORY_BYTES // weight.nbytes) if copies else 1
        weights = copies_in_huge_pages(weight, count)
        for variant in simd.available(cpu.host()):
            copies = [(copy,) for copy in weights]
            call = kernel_call(kernels.find(op_type, variant), x, copies, acc)
            found.append(Contender(f"{op_type} {variant}", call, count, weight.nbytes))
    return found


def kernel_call(
    kernel: kernels.Kernel,
    x: np.ndarray,
    copies: Sequence[tuple[np.ndarray, ...]],
    acc: np.ndarray,
    attributes: Sequence[int] = (),
) -> Call:
    """Return what runs a kernel on a copy of x and on one of the copies of its constants."""
    x, acc = in_huge_pages(x), in_huge_pages(acc)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    function = prototype(_objects.kernel_address(kernel))
    sizes = kernel.schema.bind([x.shape, *(array.shape for array in copies[0])])
    numbers = [*(sizes[letter] for letter in kernel.schema.letters), *attributes]
    table = np.array(
        [
            [0, *(array.ctypes.data for array in (x, *constants, acc)), *numbers]
            for constants in copies
        ],
        np.int64,
    )

    def call(i: int) -> None:
        function(table[i % len(table)].ctypes.data, 0, 1)

    call.keep = (x, copies, acc)  # the table has but their addresses
    return call


def nbits(tokens: int, columns: int, rows: int, bits: int = 2) -> Contender:
    """Return onnxruntime's MatMulNBits, blocks of 128, int8 activations."""
    rng = np.random.default_rng(0)
    copies = 64 if tokens == 1 else 1
    blocks = columns // BLOCK
    packed = rng.integers(0, 256, (rows, blocks, BLOCK * bits // 8), np.uint8)
    scales = np.full(rows * blocks, 0.02, np.float32)
    names = [f"y{i}" for i in range(copies)]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    sessions = []
    for name in names:
        node = helper.make_node(
            "MatMulNBits", ["x", "q", "s"], [name], domain="com.microsoft", **attributes
        )
        graph = helper.make_graph(
            [node],
            "matmul",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [tokens, columns])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [tokens, rows])],
            [numpy_helper.from_array(packed, "q"), numpy_helper.from_array(scales, "s")],
        )
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        providers = ["CPUExecutionProvider"]
        sessions.append(onnxruntime.InferenceSession(model.SerializeToString(), options, providers))
    x = {"x": rng.standard_normal((tokens, columns), np.float32)}

    def call(i: int) -> object:
        return sessions[i % copies].run(None, x)

    return Contender(f"onnxruntime MatMulNBits {bits}", call, copies, packed.nbytes + scales.nbytes)


def float_gemm(tokens: int, columns: int, rows: int) -> Contender:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, columns), np.float32)
    weight = rng.standard_normal((columns, rows), np.float32)
    return Contender("NumPy float32", lambda _: x @ weight, 1, weight.nbytes)


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def timed(call: Call, repetitions: int) -> float:
    """Return the seconds of one call."""
    call(0)
    begin = time.thread_time()
    for i in range(repetitions):
        call(1 + i)
    return (time.thread_time() - begin) / repetitions


if __name__ == "__main__":
    main()
