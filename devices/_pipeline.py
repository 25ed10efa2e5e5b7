"""Instructions of units in a row, with two buffers between each and the next.

A unit's pieces fill a buffer, one or several of them, and the next unit's empty it. The first piece
that uses a buffer waits for the token that says it is full, or free again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.devices._events import Effect, Instruction

BUFFERS = 2


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one instruction does.

    Attributes:
        cycles: that it takes.
        empties: number of the buffer it reads, counted from 0 over the whole run: buffer n lies
            where buffer n - 2 was.
        fills: number of the buffer it writes.
        memory: what it moves bytes to or from; "" if nothing.
        bytes: that it moves.
        effect: what it does, where the answer is wanted.
    """

    cycles: float
    empties: int = 0
    fills: int = 0
    memory: str = ""
    bytes: float = 0.0
    effect: Effect | None = None


@dataclass(frozen=True)
class Stage:
    """A unit and its pieces in order; numbers of buffers grow by one at a time."""

    unit: str
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Streamed:
    """A call and its stages, in the order in which data go through them."""

    name: str
    stages: Sequence[Stage]


def chain(calls: Sequence[Streamed]) -> list[Instruction]:
    """Return the instructions of calls; each begins when the last unit of the one before has ended.

    What a call reads is what the one before it made, so nothing of it can be loaded earlier.
    """
    program = []
    for index, call in enumerate(calls):
        before = calls[index - 1].stages[-1].unit if index else ""
        behind = calls[index + 1].stages[0].unit if index + 1 < len(calls) else ""
        program += _instructions(call, before, behind)
    return program


def _instructions(call: Streamed, before: str, behind: str) -> list[Instruction]:
    program = []
    for position, stage in enumerate(call.stages):
        source = call.stages[position - 1] if position else None
        target = call.stages[position + 1] if position + 1 < len(call.stages) else None
        for index, piece in enumerate(stage.pieces):
            waits, releases = _tokens(stage, index, source, target)
            if before and source is None and index == 0:
                waits.append(before)
            if behind and target is None and index + 1 == len(stage.pieces):
                releases.append(behind)
            program.append(
                Instruction(
                    stage.unit,
                    piece.cycles,
                    f"{call.name} {stage.unit} {index}",
                    waits=tuple(waits),
                    releases=tuple(releases),
                    memory=piece.memory,
                    bytes=piece.bytes,
                    effect=piece.effect,
                )
            )
    return program


def _tokens(
    stage: Stage, index: int, source: Stage | None, target: Stage | None
) -> tuple[list[str], list[str]]:
    """Return the units that a piece waits for, and those that it gives a token."""
    piece = stage.pieces[index]
    before = stage.pieces[index - 1] if index else None
    behind = stage.pieces[index + 1] if index + 1 < len(stage.pieces) else None
    waits, releases = [], []
    if source is not None:
        if before is None or before.empties != piece.empties:
            waits.append(source.unit)
        last = behind is None or behind.empties != piece.empties
        if last and piece.empties + BUFFERS <= source.pieces[-1].fills:
            releases.append(source.unit)
    if target is not None:
        if piece.fills >= BUFFERS and (before is None or before.fills != piece.fills):
            waits.append(target.unit)
        if behind is None or behind.fills != piece.fills:
            releases.append(target.unit)
    return waits, releases
