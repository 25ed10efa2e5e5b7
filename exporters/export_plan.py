"""What an export with a budget would choose, and why, without making a bundle."""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.low_bit_export import (
    Choices,
    LowBit,
    Task,
    check,
    choose_schemes,
    prepare,
)
from edgellm.exporters.quantizers import row_classes
from edgellm.exporters.quantizers.low_bit import Scheme


@dataclass(frozen=True, kw_only=True)
class SchemePlan:
    """One scheme, if all linears had it: what it takes, and what the model would lose.

    Attributes:
        scheme: its name.
        bits_per_weight: of the linears, with scales.
        loss: expected; of a language model or a classifier in nats, of embeddings the squared
            distance.
        linears: how many get it, all their rows or some.
    """

    scheme: str
    bits_per_weight: float
    loss: float
    linears: int


@dataclass(frozen=True, kw_only=True)
class LinearPlan:
    """The scheme of one linear or of its rows, and what the model is expected to lose by it."""

    path: str
    scheme: str
    bits_per_weight: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What an export would choose.

    Attributes:
        schemes: all that there was to choose from.
        linears: what each linear gets.
        bits_per_weight: of the linears, with scales.
        weight_bytes: of all weights; what is no linear is int8.
        loss: expected of the model, on other inputs than those that it is calibrated on.
        tokens_per_second: at most, by the bandwidth of this machine's memory; 0 where not asked.
    """

    schemes: tuple[SchemePlan, ...]
    linears: tuple[LinearPlan, ...]
    bits_per_weight: float
    weight_bytes: int
    loss: float
    tokens_per_second: float = 0.0


def plan_export(task: Task, options: LowBit, num_parameters: int) -> ExportPlan:
    """Choose the schemes of a checkpoint's linears; ``task.work`` is not touched.

    Args:
        task: what is to be quantised.
        options: how; with a single scheme there is nothing to choose, and no loss is expected.
        num_parameters: of the whole model.

    Raises:
        ConfigError: see ``low_bit_export.check``.
    """
    check(task, options.plan)
    task, _ = prepare(task, options)
    with tempfile.TemporaryDirectory(prefix="edgellm-plan-") as folder:
        parts = FloatParts(task.write_float_model(Path(folder)), options.run)
        choices = choose_schemes(parts, task, options.plan)
        loss = choices.forecast()
    spent = {
        path: recipe.stored_bits(task.linears[path]) for path, recipe in choices.recipes.items()
    }
    losses = dict.fromkeys(choices.recipes, 0.0)
    for name, option in choices.chosen.items():
        losses[choices.blocks[name].path] += option.loss
    total = sum(spent.values())
    return ExportPlan(
        schemes=_schemes(choices, task.linears),
        linears=tuple(
            LinearPlan(
                path=path,
                scheme=str(recipe),
                bits_per_weight=spent[path] / math.prod(task.linears[path]),
                loss=losses[path],
            )
            for path, recipe in choices.recipes.items()
        ),
        bits_per_weight=total / task.num_weights,
        weight_bytes=total // 8 + num_parameters - task.num_weights,
        loss=loss,
    )


def with_speed(plan: ExportPlan, bandwidth: float) -> ExportPlan:
    """Return the plan with what a machine of so many bytes a second can reach at most."""
    return replace(plan, tokens_per_second=bandwidth / plan.weight_bytes)


def _schemes(choices: Choices, linears: Mapping[str, tuple[int, int]]) -> tuple[SchemePlan, ...]:
    chosen = Counter(row_classes.schemes_in(choices.recipes.values()))
    if choices.chosen:  # before the trellises of a linear become one
        parts = {(choices.blocks[name].path, one.scheme) for name, one in choices.chosen.items()}
        chosen = Counter(scheme for _, scheme in parts)
    expected: dict[Scheme, float] = dict.fromkeys(chosen, 0.0)
    for options in choices.options.values():
        for option in options:
            expected[option.scheme] = expected.get(option.scheme, 0.0) + option.loss
    weights = sum(math.prod(shape) for shape in linears.values())
    plans = [
        SchemePlan(
            scheme=str(scheme),
            bits_per_weight=sum(map(scheme.stored_bits, linears.values())) / weights,
            loss=loss,
            linears=chosen[scheme],
        )
        for scheme, loss in expected.items()
    ]
    return tuple(sorted(plans, key=lambda plan: plan.bits_per_weight))
