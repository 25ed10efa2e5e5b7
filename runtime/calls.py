"""A bundle as devices see it: each step of its plan as a Call, layers that repeat once."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from edgellm import ops
from edgellm.bundle import Bundle
from edgellm.device import Block, Call, ForwardPass, Operand
from edgellm.errors import ConfigError
from edgellm.graph_names import IMAGES, LOGIT_COUNT, PAST_LENGTH, SEQUENCES, TOKENS
from edgellm.ops import evaluate_dim
from edgellm.runtime import encoder_contract
from edgellm.runtime.plan import Plan, Step

LAYER = re.compile(r".*?\.\d+(?=/)")
"""The beginning of a node's name, up to the number of its layer."""


def call_of(plan: Plan, step: Step, sizes: Mapping[str, int]) -> Call:
    """Return a step as a Call.

    Args:
        plan: whose step it is.
        step: the step.
        sizes: of the plan's dynamic sizes.

    Raises:
        UnsupportedOpError: the operator is unknown.
    """
    inputs = tuple(_operand(plan, name, sizes) for name in step.inputs)
    operator = ops.find(step.op_type)
    letters = operator.SCHEMA.bind([operand.shape for operand in inputs])
    numbers = {letter: int(size) for letter, size in letters.items()}
    return Call(
        op_type=step.op_type,
        name=step.name,
        work=operator.work({**numbers, **step.attributes}),
        inputs=inputs,
        outputs=tuple(_operand(plan, name, sizes) for name in step.outputs),
        attributes=dict(step.attributes),
        constant_inputs=tuple(
            index for index, name in enumerate(step.inputs) if name in plan.constants
        ),
    )


def _operand(plan: Plan, name: str, sizes: Mapping[str, int]) -> Operand:
    value = plan.values[name]
    return Operand(name, value.dtype, tuple(evaluate_dim(dim, sizes) for dim in value.shape))


class PlanWorkload:
    """A bundle's plan as a workload."""

    def __init__(self, bundle: Bundle, plan: Plan) -> None:
        """Take a plan and the name of its bundle."""
        self.name = bundle.path.name
        self._plan = plan
        self._is_encoder = bundle.manifest.task in encoder_contract.TASKS
        self._is_vision = bundle.manifest.task == encoder_contract.CLASSIFICATION
        self._context = bundle.manifest.context_length

    def blocks(self, forward: ForwardPass) -> tuple[Block, ...]:
        """Return the calls of one pass, the steps of a layer together.

        Of an image classifier a pass is ``sequences`` images, whatever its tokens.

        Raises:
            ConfigError: the model cannot run so many sequences.
        """
        sizes = self._sizes(forward)
        calls = [call_of(self._plan, step, sizes) for step in self._plan.steps]
        layers = [tuple(layer) for _, layer in groupby(calls, key=lambda call: _layer(call.name))]
        return tuple(_joined(layers))

    def check(self, forward: ForwardPass) -> None:
        """Check that a pass is not longer than the model's context.

        Raises:
            ConfigError: it is.
        """
        length = forward.past + forward.tokens
        if length > self._context and not self._is_vision:
            raise ConfigError(
                f"{self.name}: {length} tokens; its context is {self._context} "
                "(--prompt and --new together)"
            )

    def sizes(self, forward: ForwardPass) -> dict[str, int]:
        """Return the dynamic sizes of a pass.

        Raises:
            ConfigError: the model cannot make such a pass.
        """
        self.check(forward)
        return self._sizes(forward)

    def _sizes(self, forward: ForwardPass) -> dict[str, int]:
        if self._is_vision:
            return {IMAGES: forward.sequences}
        if self._is_encoder:
            tokens = forward.tokens * forward.sequences
            return {TOKENS: tokens, SEQUENCES: forward.sequences}
        if forward.sequences != 1:
            raise ConfigError(f"{self.name}: a language model runs one sequence at a time")
        return {TOKENS: forward.tokens, PAST_LENGTH: forward.past, LOGIT_COUNT: 1}


def _layer(name: str) -> str:
    match = LAYER.match(name)
    return match[0] if match else ""


def _joined(layers: Sequence[tuple[Call, ...]]) -> list[Block]:
    """Join layers that follow one another and cost the same."""
    blocks: list[Block] = []
    for calls in layers:
        if blocks and _alike(blocks[-1].calls, calls):
            blocks[-1] = Block(blocks[-1].calls, blocks[-1].repeats + 1)
        else:
            blocks.append(Block(calls))
    return blocks


def _alike(left: Sequence[Call], right: Sequence[Call]) -> bool:
    return len(left) == len(right) and all(
        one.alike(other) for one, other in zip(left, right, strict=True)
    )
