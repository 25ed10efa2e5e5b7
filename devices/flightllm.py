"""FlightLLM on an FPGA (Zeng et al., FPGA 2024): integers by its instructions, costs by its tiles.

``_flightllm_schedule`` cuts calls into tiles, ``_flightllm_isa`` makes instructions of them,
``_flightllm_effects`` says what each instruction computes. Programs are compiled for lengths in
steps of 128 (prompts) and 16 (decoding), as the runtime of the authors does.

Deviation: special functions are computed in edgellm's integers, where the paper has fp16.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edgellm.device import (
    Array,
    Attention,
    Call,
    Cost,
    Elementwise,
    ForwardPass,
    MatMul,
    Move,
    Refusal,
    Work,
)
from edgellm.devices import _flightllm_effects, _flightllm_published, _model
from edgellm.devices._description import Description
from edgellm.devices._events import Instruction, simulate
from edgellm.devices._flightllm_isa import UNITS, Stream
from edgellm.devices._flightllm_schedule import HBM, Schedule
from edgellm.devices._model import Demand
from edgellm.errors import DeviceError

PARAMETERS = {
    "mv_inputs": (16, 16_368),
    "mm_weight_channels": (1, 4096),
    "misc_vector": (16, 1 << 20),
    "v100s_w": (1, 1000),
    "v100s_tokens_per_s": (0.1, 1e6),
}
BASIS = "analytic; one core's stream, divided by cores.count * cores.parallel_efficiency"
MANY = 1 << 20
"""Instructions of one call, beyond which it is not compiled: it would fill memory."""


class Device:
    """FlightLLM, on the board that a description describes."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description.

        Raises:
            DeviceError: the description lacks a memory, an array or a buffer that it needs.
        """
        self.name = description.name
        self.description = description
        self._schedule = Schedule(description)
        self._known_words: dict[tuple[str, Work], float] = {}

    def supports(self, call: Call) -> Refusal | None:
        """Take products of bytes, attention over int8 caches, and what MISC computes."""
        match call.work:
            case MatMul() as work:
                if _flightllm_effects.is_unknown_product(call.op_type):
                    return Refusal(f"no decoder of weights for {call.op_type}")
                return self._refuses_product(work)
            case Attention() as work:
                return self._refuses_attention(work)
            case Elementwise(kind=kind):
                known = [unit.op for unit in self.description.sfu]
                if kind in known:
                    return None
                return Refusal(f"MISC has no {kind}; it has {', '.join(known)}")
            case Move(bytes=size):
                return None if size > 0 else Refusal("there is nothing to move")

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compile a call with what its instructions compute, and run them.

        Raises:
            DeviceError: it is not supported, or its tokens do not meet.
        """
        refusal = self.supports(call)
        if refusal is not None:
            raise DeviceError(f"{self.name} does not run {call.name}: {refusal.reason}")
        program, effects = self.program(call, inputs)
        timeline = simulate(program, effects.memory)
        if timeline.tokens_left:
            raise DeviceError(f"{self.name}: {call.name} leaves {timeline.tokens_left} tokens")
        return effects.outputs()

    def program(
        self, call: Call, inputs: Sequence[Array]
    ) -> tuple[list[Instruction], _flightllm_effects.Effects]:
        """Return the instructions of a call that compute, and what they compute on."""
        effects = _flightllm_effects.bind(call, inputs, self._schedule)
        stream = Stream()
        stream.add(call.name, self._schedule.pipelines(call), effects.effect)
        return stream.finish(), effects

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return the instructions of calls, and a barrier behind them.

        Raises:
            DeviceError: there is no rule for a call, or it is too large to be compiled.
        """
        stream = Stream()
        for call in calls:
            pipelines = self._schedule.pipelines(call)
            if (count := sum(len(each.steps) * each.tiles for each in pipelines)) > MANY:
                raise DeviceError(f"{self.name}: {call.name} has {count} instructions")
            stream.add(call.name, pipelines, None)
        return stream.finish()

    def cost(self, call: Call) -> Cost:
        """Add up the pipelines of a call; what the busiest unit does not fill is not overlapped."""
        pipelines = self._schedule.pipelines(call)
        busy = dict.fromkeys(UNITS, 0.0)
        moved = {"LD": 0.0, "ST": 0.0}
        for pipeline in pipelines:
            for unit, cycles in pipeline.busy().items():
                busy[unit] += cycles
            for step in pipeline.steps:
                if step.unit in moved:
                    moved[step.unit] += pipeline.tiles * step.bytes
        hz = self.description.hz()
        cycles = sum(pipeline.cycles for pipeline in pipelines)
        demand = Demand(
            busy_s={unit: amount / hz for unit, amount in busy.items() if amount},
            fill_s=(cycles - max(busy.values())) / hz,
            read={HBM: moved["LD"]},
            written={HBM: moved["ST"]},
            sram_bytes=2 * (moved["LD"] + moved["ST"]),
            compute_pj=self._compute_pj(call),
        )
        return _model.cost(self.description, call, demand, BASIS)

    def compiled_for(self, forward: ForwardPass) -> ForwardPass:
        """Return the pass whose program is run: prompts of 128s, decoding at lengths of 16s.

        Raises:
            DeviceError: the pass is longer than any program.
        """
        rule = self.description.compile
        if forward.tokens > 1:
            tokens = _model.padded(forward.tokens, rule.bucket_prefill)
            found = replace(
                forward, tokens=tokens, past=_model.padded(forward.past, rule.bucket_decode)
            )
        else:
            found = replace(forward, past=_model.padded(forward.past + 1, rule.bucket_decode) - 1)
        if found.past + found.tokens > rule.max_len:
            raise DeviceError(
                f"{self.name}: {forward.past + forward.tokens} tokens; programs are compiled for "
                f"at most {rule.max_len} (--set compile.max_len=...)"
            )
        return found

    def stored_bytes(self, calls: Iterable[Call]) -> float:
        """Return the bytes of the instructions of calls, of one core."""
        isa = self.description.isa
        if isa is None:
            raise DeviceError(f"{self.name}: no [isa]")
        return sum(self._words(call, isa.words) for call in calls) * isa.word_bits / 8

    def _words(self, call: Call, sizes: Mapping[str, float]) -> float:
        """Return the words of a call; of those that amount to the same, once."""
        key = (call.op_type, call.work)
        if key not in self._known_words:
            pipelines = self._schedule.pipelines(call)
            self._known_words[key] = sum(pipeline.words(sizes) for pipeline in pipelines)
        return self._known_words[key]

    def metric(self, name: str) -> float:
        """Return a published figure that is neither a speed nor an energy, as it is here.

        Raises:
            DeviceError: there is none of that name.
        """
        return _flightllm_published.metric(self, name)

    def _compute_pj(self, call: Call) -> float:
        energy = self.description.energy
        match call.work:
            case MatMul() as work:
                return (
                    work.macs
                    * work.density
                    * _model.mac_pj(self.description, _model.precision(work))
                )
            case Attention() as work:
                return work.macs * _model.mac_pj(self.description, "attention") + (
                    work.scores * energy.element_pj
                )
            case Elementwise() as work:
                return work.elements * energy.element_pj
        return 0.0

    def _refuses_product(self, work: MatMul) -> Refusal | None:
        rates = [
            _model.rate(array, work) for array in self.description.array if array.id in ("MM", "MV")
        ]
        if work.index_bits and not all(array.sparsity for array in self.description.array):
            return Refusal("the weights are sparse; the arrays take dense ones only")
        return next((rate for rate in rates if isinstance(rate, Refusal)), None)

    def _refuses_attention(self, work: Attention) -> Refusal | None:
        longest = self.description.compile.max_len
        if work.kv_bits != 8:
            return Refusal(f"keys and values of {work.kv_bits} bits; the arrays take 8")
        if work.length > longest:
            return Refusal(f"{work.length} keys; programs are compiled for at most {longest}")
        return None
