"""Linears of 1 to 4 bits, one core: time by bits, and against onnxruntime's MatMulNBits.

    python -m tests.benchmarks.low_bits [law] [peers] [prompt]

One token walks over copies of the weights of 512 MB together; a prompt of 128 uses one. Times are
of the thread, as in ``matmuls``. Every contender runs once in each of five rounds; what is shown is
the median over the rounds, with the least and the greatest in brackets.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import numpy as np

from edgellm.dtypes import bit_plane_shape
from edgellm.ops._shift_alphas import pack_alphas
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import simd
from tests.benchmarks.matmuls import Contender, kernel_call, nbits, timed, write
from tests.benchmarks.operands import in_huge_pages

SHAPES = ((2560, 6912), (6912, 2560), (4096, 4096))
LAW_SHAPE = (4096, 4096)
PROMPT_SHAPE = (2560, 6912)
PROMPT = 128
GROUP = 128
SHIFT = 12
TERMS = 2
LARGEST_EXPONENT = 11
ROUNDS = 5
WALKED_BYTES = 512 << 20
REPETITIONS = 12
LOW_BIT = ("GroupLinear", "ShiftAddLinear")

Seconds = dict[str, list[float]]


def main() -> None:
    parts = {"law": report_law, "peers": report_peers, "prompt": report_prompt}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    host = cpu.host()
    write(f"{host.model} ({host.name}), {simd.chosen(host)}; one core")
    for name in sys.argv[1:] or parts:
        parts[name]()


def report_law() -> None:
    """Show the time by bits; T-MAC's law says that it is in proportion to them."""
    columns, rows = LAW_SHAPE
    for op_type in LOW_BIT:
        contenders = [low_bit(op_type, bits, (1, columns, rows)) for bits in (1, 2, 3, 4)]
        seconds, bandwidth = race(contenders)
        write(f"\n{op_type} {columns} x {rows}, one token; memory gives {bandwidth / 1e9:.1f} GB/s")
        each = [median(seconds[one.name]) for one in contenders]
        on_line = np.polyval(np.polyfit((1, 2, 3, 4), each, 1), (1, 2, 3, 4))
        for bits, one in zip((1, 2, 3, 4), contenders, strict=True):
            share, near = each[bits - 1] / (each[-1] * bits / 4), each[bits - 1] / on_line[bits - 1]
            write(
                f"  {line(one, seconds, bandwidth)}   {share:4.2f} of {bits}/4 of that of 4 bits, "
                f"{near:4.2f} of what a line says"
            )


def report_peers() -> None:
    for columns, rows in SHAPES:
        for bits in (4, 2):
            sizes = 1, columns, rows
            contenders = [
                *(low_bit(op_type, bits, sizes) for op_type in LOW_BIT),
                nbits(*sizes, bits),
            ]
            seconds, bandwidth = race(contenders)
            write(f"\n{columns} x {rows}, one token; memory gives {bandwidth / 1e9:.1f} GB/s")
            for one in contenders:
                write(f"  {line(one, seconds, bandwidth)}   {ratio(one, contenders[-1], seconds)}")


def report_prompt() -> None:
    sizes = PROMPT, *PROMPT_SHAPE
    contenders = [int8(sizes)]
    contenders += [low_bit(op_type, bits, sizes) for op_type in LOW_BIT for bits in (4, 3, 2)]
    contenders += [nbits(*sizes, bits) for bits in (4, 2)]
    seconds, _ = race(contenders, 1)
    write(f"\n{sizes[1]} x {sizes[2]}, {PROMPT} tokens")
    for one in contenders:
        rate = np.prod(sizes) / median(seconds[one.name]) / 1e9
        milliseconds = spread([1e3 * taken for taken in seconds[one.name]])
        behind = spread(
            [a / b for a, b in zip(seconds[one.name], seconds[contenders[0].name], strict=True)]
        )
        write(
            f"  {one.name:26} {milliseconds:>24} ms {rate:7.1f} GMAC/s   {behind} times int8's time"
        )


def race(contenders: Sequence[Contender], repetitions: int = REPETITIONS) -> tuple[Seconds, float]:
    """Return the seconds of a call by contender and round, and the bytes a second of the memory."""
    big = np.ones(WALKED_BYTES // 8, np.int64)
    seconds, reads = defaultdict(list), []
    for turn in range(ROUNDS):
        reads.append(timed(lambda _: big.sum(), 1))
        for i in range(len(contenders)):
            one = contenders[(turn + i) % len(contenders)]
            seconds[one.name].append(timed(one.call, repetitions))
    return seconds, big.nbytes / median(reads)


def low_bit(op_type: str, bits: int, sizes: tuple[int, int, int]) -> Contender:
    tokens, columns, rows = sizes
    rng = np.random.default_rng(0)
    groups = columns // GROUP
    x = rng.integers(-127, 128, (tokens, columns), np.int8)
    planes = rng.integers(0, 256, bit_plane_shape(rows, columns, bits), np.uint8)
    if op_type == "GroupLinear":
        scale = rng.integers(1, 2**15, (groups, rows), np.int16)
        constants = (planes, scale, np.full((groups, rows), 2 ** (bits - 1), np.uint8))
    else:
        # Alphas that halve from plane to plane, of terms such as 2^11 + 2^9.
        halving = (5 << LARGEST_EXPONENT - 2) >> np.arange(bits)
        alphas = np.broadcast_to(halving[:, None], (groups, bits, rows))
        constants = (planes, pack_alphas(alphas, TERMS))
    numbers = (GROUP, SHIFT) if op_type == "GroupLinear" else (GROUP, SHIFT, TERMS)
    weight_bytes = sum(array.nbytes for array in constants)
    count = -(-WALKED_BYTES // weight_bytes) if tokens == 1 else 1
    copies = [tuple(map(in_huge_pages, constants)) for _ in range(count)]
    acc = np.empty((tokens, rows), np.int32)
    call = kernel_call(kernels.find(op_type), x, copies, acc, numbers)
    return Contender(f"{op_type} {bits}", call, count, weight_bytes)


def int8(sizes: tuple[int, int, int]) -> Contender:
    tokens, columns, rows = sizes
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (tokens, columns), np.int8)
    weight = rng.integers(-127, 128, (rows, columns), np.int8)
    acc = np.empty((tokens, rows), np.int32)
    call = kernel_call(kernels.find("Int8Linear"), x, [(weight,)], acc)
    return Contender("Int8Linear", call, 1, weight.nbytes)


def line(one: Contender, seconds: Seconds, bandwidth: float) -> str:
    taken = seconds[one.name]
    speed = one.weight_bytes / median(taken)
    return (
        f"{one.name:26} {spread([1e6 * value for value in taken]):>24} us "
        f"{speed / 1e9:5.1f} GB/s ({speed / bandwidth:4.0%})"
    )


def ratio(one: Contender, other: Contender, seconds: Seconds) -> str:
    if one is other:
        return ""
    pairs = zip(seconds[one.name], seconds[other.name], strict=True)
    return f"{spread([theirs / ours for ours, theirs in pairs])} times as fast as {other.name}"


def spread(values: Sequence[float]) -> str:
    """Return "median (least to most)"."""
    digits = 0 if median(values) >= 100 else 2
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
