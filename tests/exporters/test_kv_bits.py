"""A key/value cache of 4 bits: what is stored, that executors agree, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgellm import api, load
from edgellm.errors import BundleError, ConfigError, PlanError
from edgellm.exporters.architectures import bert, hgrn_bit, llama, qwen2
from edgellm.exporters.export_options import ExportOptions
from edgellm.runtime.loader import load_plan

WIDE = {**llama.TINY, "head_dim": 64}
BIASED = {**qwen2.TINY, "hidden_size": 256}
IDS = [5, 9, 3, 77, 12, 6, 5, 9]


def test_the_cache_has_4_bits(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    source = write_checkpoint(tmp_path / "in", WIDE)
    bundle = api.export(source, tmp_path / "out", kv_bits=4)
    plan = load_plan(bundle)
    heads, layers = WIDE["num_key_value_heads"], WIDE["num_hidden_layers"]

    assert bundle.manifest.quantization == "int8 W8A8, KV4"
    assert bundle.manifest.cache_bytes_per_token == layers * heads * 2 * (32 + 4)
    assert plan.values["past_key_values.0.key"].shape[1:] == (heads, 32)
    assert {"Int4CacheAppend", "Int4Attention"} <= {step.op_type for step in plan.steps}
    assert api.verify(bundle.path).passed


def test_what_is_cached_is_8_bits_rounded(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    """Of the first layer, whose input does not depend on the cache."""
    source = write_checkpoint(tmp_path / "in", WIDE)
    kept = []
    for bits in (8, 4):
        path = api.export(source, tmp_path / str(bits), kv_bits=bits).path
        with load(path) as model:
            cache = model.engine.new_cache()
            model.engine.forward(np.array(IDS), cache, [])
            kept.append(cache.export_arrays())
    fine, coarse = kept
    name = "past_key_values.0.value"

    np.testing.assert_array_equal(coarse[f"{name}_absmax"], fine[f"{name}_absmax"])
    low, high = coarse[name] & 15, coarse[name] >> 4
    codes = np.concatenate([low, high], axis=2).astype(np.int64) - 8
    assert np.abs(127 * codes - 7 * fine[name].astype(np.int64)).max() <= 127 / 2 + 7 / 2


def test_keys_with_a_bias_get_an_offset(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    bundle = api.export(write_checkpoint(tmp_path / "in", BIASED), tmp_path / "out", kv_bits=4)
    plan = load_plan(bundle)
    offsets = [value for name, value in plan.constants.items() if name.endswith("key_offset")]

    assert offsets
    assert all(np.abs(offset).max() > 0 for offset in offsets)
    assert api.verify(bundle.path).passed


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (hgrn_bit, "hgrn_bit keeps a state"),
        (bert, "encoders have no key/value cache"),
        (llama, "a multiple of 64 columns, and this model's have 8: leave them at 8"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, module: ModuleType, message: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(module.TINY))

    with pytest.raises(ConfigError, match=message):
        api.export_random(config, tmp_path / "out", kv_bits=4)
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_bits_are_refused(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match="cache bits are 3; allowed are 8 and 4"):
        ExportOptions(kv_bits=3)
    path = api.export(write_checkpoint(tmp_path / "in", WIDE), tmp_path / "out").path
    manifest = path / "manifest.json"
    facts = json.loads(manifest.read_text())
    cases = (3, BundleError, "allowed are 8 and 4"), (4, PlanError, "it must be .* uint8")
    for bits, error, message in cases:
        manifest.write_text(json.dumps({**facts, "kv_bits": bits}))
        with pytest.raises(error, match=message):
            load(path)
