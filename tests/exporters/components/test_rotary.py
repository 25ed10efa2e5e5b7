import numpy as np
import pytest

from edgellm.config import JsonFields
from edgellm.exporters.components.rotary import RotaryConfig, inverse_frequencies, tables

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(values) -> RotaryConfig:
    return RotaryConfig.read(JsonFields(values, "config.json"), 10_000.0)


def test_tables_are_cos_and_sin_of_position_times_frequency():
    cos, sin = tables(RotaryConfig(10_000.0), 4, 4)

    assert cos[3] == pytest.approx(np.cos([3.0, 0.03]))
    assert sin[3] == pytest.approx(np.sin([3.0, 0.03]))


def test_linear_scaling_divides_all_frequencies():
    config = read({"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 4.0}})

    assert inverse_frequencies(config, 4) == pytest.approx([0.25, 0.025])


def test_llama3_scaling_leaves_high_and_divides_low_frequencies():
    """By the definition: wavelengths under 8192 / 4 stay, over 8192 / 1 are divided by 8."""
    plain = inverse_frequencies(RotaryConfig(500_000.0), 128)
    scaled = inverse_frequencies(read({"rope_theta": 500_000.0, "rope_scaling": LLAMA3}), 128)
    wavelength = 2 * np.pi / plain

    assert (scaled[wavelength < 2048] == plain[wavelength < 2048]).all()
    assert (scaled[wavelength > 8192] == plain[wavelength > 8192] / 8).all()
    between = (wavelength > 2048) & (wavelength < 8192)
    smooth = (8192 / wavelength[between] - 1) / 3
    expected = (1 - smooth) * plain[between] / 8 + smooth * plain[between]
    assert scaled[between] == pytest.approx(expected)
    assert between.sum() == 6


def test_rope_parameters_of_transformers_5_are_read():
    old = read({"rope_theta": 500_000.0, "rope_scaling": LLAMA3})

    assert read({"rope_parameters": {"rope_theta": 500_000.0, **LLAMA3}}) == old
