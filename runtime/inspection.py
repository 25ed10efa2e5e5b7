"""Describe a bundle: what it is, what it computes, what its weights are."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgellm.bundle import Manifest, open_bundle
from edgellm.device import MatMul
from edgellm.runtime.calls import call_of
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan


@dataclass(frozen=True, kw_only=True)
class OpCount:
    """How often the graph has an operator."""

    op_type: str
    count: int


@dataclass(frozen=True, kw_only=True)
class LinearInfo:
    """How the weight of one linear is stored.

    Attributes:
        name: of the node, such as ``/model/layers.0/mlp/up_proj``.
        op_type: the operator that multiplies with it.
        bits: of the code of a weight, of a trellis in tenths; 2 where ternary.
        rows: outputs.
        columns: inputs.
        stored_bits: a weight, with scales and what a layout adds.
    """

    name: str
    op_type: str
    bits: float
    rows: int
    columns: int
    stored_bits: float


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One weight tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A bundle at a glance. ``cache_bytes`` is what is kept of a text as long as the context."""

    path: str
    manifest: Manifest
    total_bytes: int
    weight_bytes_per_token: int
    cache_bytes: int
    ops: tuple[OpCount, ...]
    linears: tuple[LinearInfo, ...]
    tensors: tuple[TensorInfo, ...]


def inspect_bundle(path: str | os.PathLike[str]) -> Inspection:
    """Read a bundle's manifest and graph; the weights are mapped, not read.

    Raises:
        BundleError: the bundle is damaged.
        PlanError: its graph cannot run here.
    """
    bundle = open_bundle(path)
    plan = load_plan(bundle)
    manifest = bundle.manifest
    return Inspection(
        path=str(path),
        manifest=manifest,
        total_bytes=sum(entry.size for entry in manifest.files.values()),
        weight_bytes_per_token=plan.weight_bytes_per_token(),
        cache_bytes=manifest.cache_bytes_per_token * manifest.context_length + manifest.state_bytes,
        ops=_count_ops(plan),
        linears=tuple(_list_linears(plan)),
        tensors=_list_tensors(plan),
    )


def _count_ops(plan: Plan) -> tuple[OpCount, ...]:
    counts = Counter(step.op_type for step in plan.steps)
    return tuple(OpCount(op_type=name, count=count) for name, count in counts.most_common())


def _list_linears(plan: Plan) -> Iterator[LinearInfo]:
    ones: Mapping[str, int] = defaultdict(lambda: 1)
    for step in plan.steps:
        work = call_of(plan, step, ones).work
        if not step.op_type.endswith("Linear") or not isinstance(work, MatMul):
            continue
        weights = [plan.constants[one] for one in step.inputs[1:] if one in plan.constants]
        stored = 8 * sum(array.nbytes for array in weights) / (work.n * work.k)
        yield LinearInfo(
            name=step.name.rpartition("/")[0],
            op_type=step.op_type,
            bits=_code_bits(work),
            rows=work.n,
            columns=work.k,
            stored_bits=round(stored, 3),
        )


def _code_bits(work: MatMul) -> float:
    """Return whole bits as such; a weight's share of bytes that are rounded up is a little more."""
    bits = round(work.weight_bits, 1)
    return int(bits) if bits == int(bits) else bits


def _list_tensors(plan: Plan) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, dtype=str(array.dtype), shape=array.shape, bytes=array.nbytes)
        for name, array in plan.constants.items()
    )
