"""The tables of a device's description: which keys there are, and what each may hold.

GB is 10^9 bytes. Bandwidths are peaks, efficiencies stand apart.
"""

from dataclasses import dataclass

from edgellm.devices._fields import (
    choice,
    count,
    counts,
    flag,
    names,
    number,
    numbers,
    section,
    sections,
    text,
)

KINDS = ("fpga", "asic", "gpu-ext", "cpu", "model")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the device is; ``model`` names the file in ``devices/`` whose Device it is."""

    model: str = text()
    kind: str = choice(*KINDS)
    summary: str = text()
    process_nm: float | None = number(1, 1000, default=None)
    paper: str = text(default="")
    supports: str = text()
    """In words, for ``edgellm devices``."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Clocks."""

    core_mhz: float = number(1e-3, 1e5)
    mem_mhz: float | None = number(1e-3, 1e5, default=None)
    vector_mhz: float | None = number(1e-3, 1e5, default=None)


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Equal cores that share each operator; their speeds add up, times the efficiency."""

    count: int = count(1, 4096, default=1)
    parallel_efficiency: float = number(1e-3, 1, default=1.0)


@dataclass(frozen=True, kw_only=True)
class Quantum:
    """The tile of one instruction: sizes are padded up to multiples of it."""

    m: int = count(1, 1 << 20, default=1)
    n: int = count(1, 1 << 20, default=1)
    k: int = count(1, 1 << 20, default=1)


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """N:M weights: of each ``m`` at most one of the numbers in ``n`` are stored."""

    m: int = count(1, 1 << 16)
    n: tuple[int, ...] = counts(0, 1 << 16)
    meta_bits: int = count(0, 32)
    block: int = count(1, 1 << 16)
    compute_scaled: bool = flag()


@dataclass(frozen=True, kw_only=True)
class ArrayUnit:
    """A matrix unit: m * n * k multiply-accumulates a cycle and core.

    ``rate`` multiplies that by precision ("w4a8"); what is not in it is not supported, unless it
    is empty. ``numeric`` holds what the arithmetic depends on, such as lut_bits.
    """

    id: str = text()
    m: int = count(1, 1 << 20)
    n: int = count(1, 1 << 20)
    k: int = count(1, 1 << 20)
    dataflow: str = choice("os", "ws", "bitserial_lut", "tmatmul", "dspchain", "serial")
    quantum: Quantum = section(Quantum, default=Quantum())
    rate: dict[str, float] = numbers(1e-6, 1e6)
    sparsity: Sparsity | None = section(Sparsity, default=None)
    numeric: dict[str, float] = numbers(0, 1e9)


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Memory on the chip, of a core."""

    id: str = text()
    bytes: int = count(1, 1 << 40)
    ports: int = count(1, 1024, default=1)
    feeds: tuple[str, ...] = names()
    double: bool = flag(default=False)


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the peak bandwidth that are reached, by how memory is accessed."""

    stream: float = number(1e-3, 1, default=1.0)
    cross: float = number(1e-3, 1, default=1.0)
    write: float = number(1e-3, 1, default=1.0)
    scatter: float = number(1e-3, 1, default=1.0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory off the chip; ``bw_gbs`` is the peak of all its channels."""

    id: str = text()
    bw_gbs: float = number(1e-6, 1e6)
    channels: int = count(1, 4096, default=1)
    channels_used: int | None = count(1, 4096, default=None)
    burst_bytes: int = count(1, 1 << 20, default=1)
    eff: Efficiency = section(Efficiency, default=Efficiency())
    latency_ns: float = number(0, 1e6, default=0.0)
    outstanding: int = count(1, 1 << 20, default=1)
    pj_per_bit_rd: float = number(0, 1e4, default=0.0)
    pj_per_bit_wr: float = number(0, 1e4, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """In which memory what lies, by its id."""

    weights: str = text()
    kv: str = text()
    activations: str = text()
    instructions: str = text(default="")
    always_on_chip_decode: bool = flag(default=False)


@dataclass(frozen=True, kw_only=True)
class VectorUnit:
    """A unit for what is not a matrix product; ``op`` is a kind of Elementwise, or "*" for all."""

    op: str = text()
    elems_per_cycle: float = number(1e-6, 1e6)
    passes: int = count(1, 16, default=1)
    overlap: str = choice("per_vector", "none", default="none")
    numeric: str = choice("int", "fp16", "pwl3", default="int")


@dataclass(frozen=True, kw_only=True)
class Isa:
    """The instruction set; ``words`` by operation."""

    name: str = text()
    word_bits: int = count(1, 1024)
    words: dict[str, float] = numbers(1, 1024)
    queues: tuple[str, ...] = names()
    issue_cycles: float = number(0, 1e6, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Compile:
    """Lengths that programs are made for."""

    bucket_prefill: int = count(1, 1 << 20, default=1)
    bucket_decode: int = count(1, 1 << 20, default=1)
    max_len: int = count(1, 1 << 30, default=1 << 20)
    share_across_cores: bool = flag(default=True)
    merge_channels: bool = flag(default=False)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """``table_pj`` by operation: mac (any), mac_w4a8, ...; what bytes cost says ``[[memory]]``."""

    static_w: float = number(0, 1e5)
    idle_w: float = number(0, 1e5, default=0.0)
    sram_pj_per_byte: float = number(0, 1e6, default=0.0)
    element_pj: float = number(0, 1e6, default=0.0)
    table_pj: dict[str, float] = numbers(0, 1e6)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A published result, and what to run to compare with it.

    Attributes:
        id: of the point; ``fitted_on`` refers to it.
        row: of the reproduction table: "F1".
        metric: "decode_tokens_per_s", "prefill_ms", "joules_per_token", "seconds", or one of the
            device's own.
        shape: name of a model; weights: precision, "w4a8"; prompt, new, sequences: lengths.
        set: changes of the description: "cores.count=1".
        relative_to: another device; the metric is divided by its own.
        published: the result, in the metric's unit.
        tol_rel: how far ours may be away, relatively; where the point is a gate.
    """

    id: str = text()
    row: str = text()
    metric: str = text()
    shape: str = text(default="")
    weights: str = text(default="")
    prompt: int = count(0, 1 << 20, default=0)
    new: int = count(0, 1 << 20, default=1)
    sequences: int = count(1, 1 << 20, default=1)
    set: tuple[str, ...] = names()
    relative_to: str = text(default="")
    published: float = number(0, 1e15)
    tol_rel: float = number(0, 10)
    gate: bool = flag()
    source: str = text()
    note: str = text(default="")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The published results that the device is compared with."""

    point: tuple[Point, ...] = sections(Point)
