"""Which kernel runs each step: the tuner's choice where there is one, else the processor's best."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgellm import ops
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import Kernel, simd
from edgellm.runtime.plan import Plan, Step


@dataclass(frozen=True, order=True)
class Kind:
    """An operator and the sizes that no call changes; steps of one kind take the same time."""

    op_type: str
    sizes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """Return ``BitLinear K=2560 N=6912``."""
        return " ".join([self.op_type, *(f"{letter}={size}" for letter, size in self.sizes)])


def kind_of(plan: Plan, step: Step) -> Kind:
    """Return the kind of a step."""
    schema = ops.find(step.op_type).SCHEMA
    sizes = schema.bind([plan.values[name].shape for name in step.inputs])
    fixed = ((letter, sizes[letter]) for letter in schema.letters if not letter.isdigit())
    numbers = ((letter, size) for letter, size in fixed if isinstance(size, int))
    return Kind(step.op_type, tuple(numbers))


@dataclass(frozen=True)
class Choices:
    """Variants of kernels by the name of a kind, ``str(kind)``; all give the same bits.

    Attributes:
        one: for calls of one token.
        many: for calls of more.
    """

    one: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, str] = field(default_factory=dict)

    def kernel(self, plan: Plan, step: Step, *, many: bool) -> Kernel:
        """Return the kernel of a step. What the environment names goes before what is chosen.

        Raises:
            ConfigError: the environment names a variant that this processor lacks.
        """
        host = cpu.host()
        variant = (self.many if many else self.one).get(str(kind_of(plan, step)))
        if simd.forced() or variant not in simd.available(host):
            variant = simd.chosen(host)
        return kernels.find(step.op_type, variant)

    def kernels(self, plan: Plan) -> set[Kernel]:
        """Return all kernels of a plan.

        Raises:
            ConfigError: as ``kernel``.
        """
        return {self.kernel(plan, step, many=many) for step in plan.steps for many in (False, True)}
