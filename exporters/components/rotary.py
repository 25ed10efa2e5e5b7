"""Rotary position embedding: its part of config.json, and its tables in float64."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.config import JsonFields
from edgellm.errors import UnsupportedModelError

SUPPORTED_TYPES = ("default", "linear", "llama3")
Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RotaryConfig:
    """Base frequency and scaling; the names are those of transformers' ``rope_parameters``."""

    rope_theta: float
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0

    @classmethod
    def read(cls, fields: JsonFields, default_theta: float) -> "RotaryConfig":
        """Read ``rope_theta`` and ``rope_scaling``, or the ``rope_parameters`` of transformers 5.

        Raises:
            UnsupportedModelError: another rope type, or rotation of a part of each head.
        """
        scaling = fields.section("rope_parameters") or fields.section("rope_scaling")
        theta = fields.number("rope_theta", default_theta, low=1.0)
        if fields.number("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModelError(f"{fields.where}: partial_rotary_factor other than 1")
        if scaling is None:
            return cls(theta)
        theta = scaling.number("rope_theta", theta, low=1.0)
        rope_type = _read_type(scaling)
        if rope_type == "default":
            return cls(theta)
        factor = scaling.number("factor", low=1.0)
        if rope_type == "linear":
            return cls(theta, rope_type, factor)
        low = scaling.number("low_freq_factor", low=1e-6)
        high = scaling.number("high_freq_factor", low=1e-6)
        if high <= low:
            raise scaling.fail("high_freq_factor", f"it must exceed low_freq_factor, {low}")
        original = scaling.integer("original_max_position_embeddings")
        return cls(theta, rope_type, factor, low, high, original)


def _read_type(scaling: JsonFields) -> str:
    if any(isinstance(value, dict) for value in scaling.values.values()):
        raise UnsupportedModelError(f"{scaling.where}: rope parameters per layer type")
    name = scaling.text("rope_type", scaling.text("type", "default"))
    if name not in SUPPORTED_TYPES:
        raise UnsupportedModelError(
            f"{scaling.where}: rope type {name!r} is not supported; "
            f"allowed are {', '.join(SUPPORTED_TYPES)}"
        )
    if scaling.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError(f"{scaling.where}: partial_rotary_factor other than 1")
    return name


def inverse_frequencies(config: RotaryConfig, head_dim: int) -> Table:
    """Return (head_dim / 2,) radians a position, scaled as transformers does."""
    plain = config.rope_theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if config.rope_type == "linear":
        return plain / config.factor
    if config.rope_type == "llama3":
        return _llama3_frequencies(plain, config)
    return plain


def _llama3_frequencies(plain: Table, config: RotaryConfig) -> Table:
    """Divide low frequencies by the factor, leave high ones, and blend in between (Llama 3.1)."""
    turns = config.original_max_position_embeddings * plain / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * plain / config.factor + blend * plain


def tables(config: RotaryConfig, head_dim: int, positions: int) -> tuple[Table, Table]:
    """Return cos and sin, each (positions, head_dim / 2)."""
    angles = np.outer(np.arange(positions), inverse_frequencies(config, head_dim))
    return np.cos(angles), np.sin(angles)
