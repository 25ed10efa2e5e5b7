"""Describe a bundle: what it is, what it computes, what its weights are."""

import os
from collections import Counter
from dataclasses import dataclass

from edgellm.bundle import Manifest, open_bundle
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan


@dataclass(frozen=True, kw_only=True)
class OpCount:
    """How often the graph has an operator."""

    op_type: str
    count: int


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
        tensors=_list_tensors(plan),
    )


def _count_ops(plan: Plan) -> tuple[OpCount, ...]:
    counts = Counter(step.op_type for step in plan.steps)
    return tuple(OpCount(op_type=name, count=count) for name, count in counts.most_common())


def _list_tensors(plan: Plan) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, dtype=str(array.dtype), shape=array.shape, bytes=array.nbytes)
        for name, array in plan.constants.items()
    )
