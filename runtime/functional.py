"""Compute a bundle's answer on a device and on the CPU, and compare every integer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle
from edgellm.device import Device
from edgellm.errors import BundleError, ConfigError, ContextLengthError
from edgellm.graph_names import IDS, LOGITS, POSITIONS, ROWS, present_name
from edgellm.runtime import encoder_contract, encoder_golden
from edgellm.runtime.executors import numba
from edgellm.runtime.loader import load_plan
from edgellm.runtime.placement import CPU, PlacedExecutor
from edgellm.runtime.plan import Plan
from edgellm.runtime.reports import first_difference

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]

ID_STEP = 7919
"""The prompt is id 0, 7919, 2 * 7919, ... of the vocabulary: a prime, so that ids do not repeat."""


@dataclass(frozen=True, kw_only=True)
class FunctionalReport:
    """What was compared.

    Attributes:
        device: its name.
        on_device: how many steps of each operator it ran.
        on_cpu: how many steps of each operator the references ran for it.
        calls: of the model.
        integers: that were compared: all outputs of all steps.
        difference: the first one, by operator; empty if there is none.
    """

    device: str
    on_device: Mapping[str, int]
    on_cpu: Mapping[str, int]
    calls: int
    integers: int
    difference: str

    @property
    def passed(self) -> bool:
        """Whether all integers are equal."""
        return not self.difference


def compare(bundle: Bundle, device: Device, prompt: int, new: int) -> FunctionalReport:
    """Run a bundle on a device and with the CPU's compiled kernels, and compare each step.

    A language model reads a prompt of ids that depend on their positions only, and decodes the best
    tokens; an encoder reads its golden cases.

    Raises:
        ConfigError: there is no prompt.
        ContextLengthError: the tokens do not fit in the context.
        BundleError: the bundle of an encoder has no golden case.
    """
    plan = load_plan(bundle)
    placed = PlacedExecutor(plan, device)
    cpu = numba.Executor(bundle, plan)
    if bundle.manifest.task in encoder_contract.TASKS:
        calls = _encoder_calls(bundle, plan, (placed, cpu))
    else:
        calls = _text_calls(bundle, plan, (placed, cpu), (prompt, new))
    count = integers = 0
    difference = ""
    for ours, expected in calls:
        count += 1
        integers += sum(array.size for name, array in expected.items() if name in ours)
        difference = difference or first_difference(plan, expected, ours)
    places = placed.placed.values()
    return FunctionalReport(
        device=device.name,
        on_device=Counter(item.op_type for item in places if item.place != CPU),
        on_cpu=Counter(item.op_type for item in places if item.place == CPU),
        calls=count,
        integers=integers,
        difference=difference,
    )


Executors = tuple[PlacedExecutor, numba.Executor]


def _encoder_calls(
    bundle: Bundle, plan: Plan, executors: Executors
) -> Iterator[tuple[Feeds, Feeds]]:
    cases = encoder_golden.read_cases(bundle)
    if not cases:
        raise BundleError(f"{bundle.path}: has no golden case to run; export it again")
    for case in cases:
        feeds = {name: case.feeds[name] for name in plan.inputs}
        yield _both(executors, feeds)


def _text_calls(
    bundle: Bundle, plan: Plan, executors: Executors, lengths: tuple[int, int]
) -> Iterator[tuple[Feeds, Feeds]]:
    prompt, new = lengths
    if prompt < 1 or new < 0:
        raise ConfigError(f"{prompt} + {new} tokens; a prompt of at least 1 is needed")
    if (most := bundle.manifest.context_length) < prompt + new:
        raise ContextLengthError(f"{prompt} + {new} tokens; the context has {most}")
    ids = np.arange(prompt) * ID_STEP % plan.vocab_size
    past = {
        name: np.zeros(
            [size if isinstance(size, int) else 0 for size in plan.values[name].shape],
            plan.values[name].dtype,
        )
        for name in plan.cache_inputs
    }
    length = 0
    for _ in range(1 + new):
        feeds = {
            IDS: ids,
            POSITIONS: np.arange(length, length + len(ids)),
            ROWS: np.array([len(ids) - 1]),
            **past,
        }
        ours, expected = _both(executors, feeds)
        yield ours, expected
        length += len(ids)
        past = {name: expected[present_name(name)] for name in plan.cache_inputs}
        ids = np.array([int(np.argmax(expected[LOGITS][0]))])


def _both(executors: Executors, feeds: Feeds) -> tuple[Feeds, Feeds]:
    placed, cpu = executors
    return placed.run(feeds, trace=True), cpu.run(feeds, trace=True)
