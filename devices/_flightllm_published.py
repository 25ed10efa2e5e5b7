"""FlightLLM's published figures that are neither a speed nor an energy, computed for a device."""

from collections.abc import Callable
from typing import Protocol

from edgellm.device import Call, Device, ForwardPass
from edgellm.devices import _shapes, _simulation
from edgellm.devices._description import Description
from edgellm.devices._flightllm_schedule import HBM
from edgellm.devices._simulation import Request, Simulation
from edgellm.errors import DeviceError

PRECISION = "w4a8qk0.7"
"""Of the artifact's LLaMA2-7B: weights move as 4 bits, 0.7 of those of queries and keys."""
REQUEST = Request(prompt=128, new=512)


class Board(Device, Protocol):
    """What the figures need of the device."""

    @property
    def description(self) -> Description:
        """Of the board."""

    def stored_bytes(self, calls: tuple[Call, ...]) -> float:
        """Return the bytes of the instructions of calls, of one core."""

    def compiled_for(self, forward: ForwardPass) -> ForwardPass:
        """Return the pass whose program is run."""


def metric(board: Board, name: str) -> float:
    """Return a figure.

    Raises:
        DeviceError: there is none of that name.
    """
    if name not in METRICS:
        raise DeviceError(f"{board.name}: unknown metric {name!r}; own are {', '.join(METRICS)}")
    return METRICS[name](board)


def _run(board: Board, shape: str = "llama2-7b") -> Simulation:
    return _simulation.run(board, _shapes.workload(shape, PRECISION), REQUEST)


def _program_bytes(board: Board, forward: ForwardPass) -> float:
    """Return the bytes of one core's program for a pass; its layers are unrolled."""
    blocks = _shapes.workload("llama2-7b", PRECISION).blocks(forward)
    return sum(board.stored_bytes(block.calls) * block.repeats for block in blocks)


def naive_bytes(board: Board) -> float:
    """Return the bytes of a program for each length, for a prompt and for decoding, and core."""
    longest = board.description.compile.max_len
    total = sum(
        _program_bytes(board, ForwardPass(tokens=length))
        + _program_bytes(board, ForwardPass(tokens=1, past=length - 1))
        for length in range(1, longest + 1)
    )
    return total * board.description.cores.count


def stored_bytes(board: Board) -> float:
    """Return the bytes of the programs that are compiled, once for all cores if they share."""
    longest = board.description.compile.max_len
    passes = {
        board.compiled_for(forward)
        for length in range(1, longest + 1)
        for forward in (
            ForwardPass(tokens=max(length, 2)),
            ForwardPass(tokens=1, past=length - 1),
        )
    }
    copies = 1 if board.description.compile.share_across_cores else board.description.cores.count
    return copies * sum(_program_bytes(board, forward) for forward in passes)


def _reduction(board: Board) -> float:
    return naive_bytes(board) / stored_bytes(board)


def _energy_ratio(board: Board) -> float:
    known = board.description.parameters
    return known["v100s_w"] / known["v100s_tokens_per_s"] / _run(board).joules_per_token


def _bandwidth_of_peak(board: Board) -> float:
    run = _run(board)
    peak = board.description.memory_named(HBM).bw_gbs * 1e9
    return run.bytes_per_token[HBM] * run.tokens_per_s / peak


def _bandwidth_of_used(board: Board) -> float:
    memory = board.description.memory_named(HBM)
    used = memory.channels_used or memory.channels
    return _bandwidth_of_peak(board) * memory.channels / used


def _opt_speed_up(board: Board) -> float:
    published = board.description.parameters["v100s_tokens_per_s"]
    return _run(board, "opt-6.7b").tokens_per_s / published


METRICS: dict[str, Callable[[Board], float]] = {
    "instructions_naive_bytes": naive_bytes,
    "instructions_stored_bytes": stored_bytes,
    "instructions_reduction": _reduction,
    "energy_v100s_ratio": _energy_ratio,
    "bandwidth_of_peak": _bandwidth_of_peak,
    "bandwidth_of_used": _bandwidth_of_used,
    "opt_speed_up": _opt_speed_up,
}
