"""FlightLLM's instructions: six in-order queues that meet by tokens, and the words of each.

A call becomes pipelines; a pipeline is the same steps for each of its tiles. Tiles overlap, two to
a buffer, or come one after the other. So the time of a pipeline has a closed form, its words are
counted without making instructions, and ``Stream`` makes those that the events engine runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from edgellm.device import Array
from edgellm.devices._events import DeviceMemory, Effect, Instruction
from edgellm.errors import DeviceError

UNITS = ("LD", "ST", "MM", "MV", "MISC", "SYS")
OPCODES = {"LD": 0b0001, "ST": 0b0010, "MM": 0b0011, "MV": 0b0100, "MISC": 0b0101, "SYS": 0b1111}
MASK_BITS = 5
"""Of a wait mask and of a release mask: a bit for each of the other five types."""
BUFFERS = 2
"""Tiles that a buffer holds where they overlap: one is worked on, one is filled."""
SYS_CYCLES = 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one unit does for each tile of a pipeline.

    Attributes:
        unit: one of UNITS.
        role: what it is for: "weights", "multiply"; effects go by it.
        cycles: for a tile.
        memory: what it moves bytes from or to; "" if nothing.
        bytes: that it moves for a tile.
        instructions: that it stands for; one a channel where channels are not merged.
    """

    unit: str
    role: str
    cycles: float
    memory: str = ""
    bytes: float = 0.0
    instructions: int = 1


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps that are done for each of several tiles.

    Attributes:
        steps: in the order in which a tile passes them; each unit once if tiles overlap.
        tiles: how many.
        overlap: whether a tile starts before the one in front of it is done.
    """

    steps: tuple[Step, ...]
    tiles: int
    overlap: bool = False

    @property
    def cycles(self) -> float:
        """From the first start to the last end.

        Equal tiles with two places in each buffer move at the pace of the slowest step.
        """
        tile = sum(step.cycles for step in self.steps)
        if not self.overlap:
            return self.tiles * tile
        return tile + (self.tiles - 1) * max(step.cycles for step in self.steps)

    def busy(self) -> dict[str, float]:
        """Return the cycles that each unit works."""
        cycles: dict[str, float] = {}
        for step in self.steps:
            cycles[step.unit] = cycles.get(step.unit, 0.0) + self.tiles * step.cycles
        return cycles

    def words(self, sizes: Mapping[str, float]) -> float:
        """Return the words of all instructions, those that a step stands for counted apart."""
        return self.tiles * sum(step.instructions * sizes[step.unit] for step in self.steps)


EffectOf = Callable[[int, str, int], Effect]
"""What a step does: by the number of its pipeline, its role, and the number of the tile."""


@dataclass
class _Draft:
    """An instruction that is being made."""

    step: Step
    label: str
    effect: Effect | None
    waits: list[str] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)

    def made(self) -> Instruction:
        for mask in (self.waits, self.releases):
            if len(mask) != len(set(mask)) or len(mask) > MASK_BITS:
                raise DeviceError(f"{self.label}: {', '.join(mask)} does not fit into a mask")
        return Instruction(
            self.step.unit,
            self.step.cycles,
            self.label,
            waits=tuple(self.waits),
            releases=tuple(self.releases),
            memory=self.step.memory,
            bytes=self.step.bytes,
            effect=self.effect,
        )


def first_word(instruction: Instruction) -> int:
    """Return the bits that all instructions begin with: opcode, wait mask, release mask."""
    others = [unit for unit in UNITS if unit != instruction.unit]
    word = OPCODES[instruction.unit]
    for mask in (instruction.waits, instruction.releases):
        word = word << MASK_BITS | sum(1 << others.index(unit) for unit in mask)
    return word


class Stream:
    """Instructions that are being made, in the order of issue."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._drafts: list[_Draft] = []

    def add(self, name: str, pipelines: Sequence[Pipeline], effect_of: EffectOf | None) -> None:
        """Append a call; it starts when what is there already has ended."""
        for number, pipeline in enumerate(pipelines):
            before = self._drafts[-1] if self._drafts else None
            tiles = [
                [self._draft(name, number, step, tile, effect_of) for step in pipeline.steps]
                for tile in range(pipeline.tiles)
            ]
            if before is not None:
                _link(before, tiles[0][0])
            (_overlap if pipeline.overlap else _chain)(tiles)
            self._drafts += [draft for tile in tiles for draft in tile]

    def finish(self) -> list[Instruction]:
        """Return the instructions, with the barrier behind a layer."""
        if self._drafts:
            barrier = _Draft(Step(unit="SYS", role="barrier", cycles=SYS_CYCLES), "SYS", None)
            _link(self._drafts[-1], barrier)
            self._drafts.append(barrier)
        return [draft.made() for draft in self._drafts]

    def _draft(
        self, name: str, number: int, step: Step, tile: int, effect_of: EffectOf | None
    ) -> _Draft:
        effect = effect_of(number, step.role, tile) if effect_of else None
        return _Draft(step, f"{step.unit} {name} {step.role} {number}.{tile}", effect)


def _link(first: _Draft, then: _Draft) -> None:
    """Let one start when another has ended; a unit's own queue is in order already."""
    if first.step.unit != then.step.unit:
        first.releases.append(then.step.unit)
        then.waits.append(first.step.unit)


def _chain(tiles: Sequence[Sequence[_Draft]]) -> None:
    """Let each instruction wait for the one in front of it."""
    drafts = [draft for tile in tiles for draft in tile]
    for first, then in pairwise(drafts):
        _link(first, then)


def _overlap(tiles: Sequence[Sequence[_Draft]]) -> None:
    """Let a step wait for the one before it, and for the place of the tile that it overwrites."""
    for number, tile in enumerate(tiles):
        for position, draft in enumerate(tile):
            if position + 1 < len(tile) and number >= BUFFERS:
                _link(tiles[number - BUFFERS][position + 1], draft)
            if position:
                _link(tile[position - 1], draft)


def slot(buffer: str, tile: int) -> str:
    """Return the place of a tile in a buffer that holds two."""
    return f"{buffer}[{tile % BUFFERS}]"


def nothing(memory: DeviceMemory) -> Mapping[str, Array]:
    """Do nothing: the effect of a step whose work another one's effect holds."""
    del memory
    return {}
