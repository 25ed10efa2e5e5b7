"""Smoothing: scales change no model, and what they gain is measured."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm import api
from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import build, encoder_build, encoder_source, source
from edgellm.exporters.architectures import bert, bitnet, llama, qwen2, qwen3, vit
from edgellm.exporters.lowering.smoothing_sites import DecoderSites, EncoderSites, Site
from edgellm.exporters.smoothed_weights import ChannelScales, SmoothedWeights
from edgellm.runtime.float_parts import run_each

TEXT = "The quick brown fox jumps over the lazy dog. " * 20
LOUD = 30
"""By how much some channels are larger than others."""


def random_scales(sites: list[Site]) -> ChannelScales:
    rng, scales = np.random.default_rng(3), ChannelScales()
    for site in sites:
        count = int(site.rows.max()) + 1
        scales = scales.with_site(site, rng.integers(-3, 4, count).astype(np.int32))
    return scales


def logits(graph: Path, output: str, feed: np.ndarray) -> np.ndarray:
    (result,) = run_each(graph, [output], [{"input_ids": feed, "pixel_values": feed}])
    return result[output]


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (llama.TINY, {"norms", "values", "gates", "scores"}),
        (qwen2.TINY, {"norms", "values", "gates", "scores"}),
        (qwen3.TINY, {"norms", "values", "gates"}),  # queries and keys are normalised
    ],
    ids=lambda one: one.get("model_type") if isinstance(one, dict) else "",
)
def test_scales_do_not_change_a_language_model(
    tmp_path: Path, config: Mapping[str, Any], kinds: set[str]
) -> None:
    model = source.from_config(JsonFields(config, "config.json"), 0)
    tracer = DecoderSites()
    model.model.build(tracer)
    sites = tracer.sites()
    scaled = replace(model, weights=SmoothedWeights(model.weights, random_scales(sites)))
    ids = np.arange(20)

    wanted, reached = (
        logits(build.write_float_model(one, tmp_path / name), "logits", ids)
        for one, name in ((model, "whole"), (scaled, "scaled"))
    )

    assert {site.kind for site in sites} == kinds
    assert len(sites) == config["num_hidden_layers"] * (len(kinds) + 1)
    # Powers of two are exact; products may still be summed in another order.
    np.testing.assert_allclose(reached, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (vit.TINY, {"norms", "values", "scores"}),
        ({**vit.TINY, "hidden_act": "relu"}, {"norms", "values", "gates", "scores"}),
        (bert.TINY, {"values", "scores"}),  # its norms make the residual stream, too
    ],
    ids=["vit", "vit with relu", "bert"],
)
def test_scales_do_not_change_an_encoder(
    tmp_path: Path, config: Mapping[str, Any], kinds: set[str]
) -> None:
    model = encoder_source.from_config(JsonFields(config, "config.json"), 0)
    tracer = EncoderSites()
    model.model.build(tracer)
    scaled = replace(model, weights=SmoothedWeights(model.weights, random_scales(tracer.sites())))
    feed = np.arange(12)[None]
    if config["model_type"] == "vit":
        feed = np.random.default_rng(4).integers(0, 256, (3, 4, 7, 4, 7), np.uint8)
    output = "logits" if config["model_type"] == "vit" else "embeddings"

    wanted, reached = (
        logits(encoder_build.write_float_model(one, tmp_path / name), output, feed)
        for one, name in ((model, "whole"), (scaled, "scaled"))
    )

    assert {site.kind for site in tracer.sites()} == kinds
    np.testing.assert_allclose(reached, wanted, rtol=1e-4, atol=1e-5)


def test_outliers_are_found_and_smoothed(
    tmp_path: Path, write_checkpoint: Callable[..., Path], tensors_of: Callable[..., Any]
) -> None:
    tensors = tensors_of(llama.TINY)
    for name in [name for name in tensors if name.endswith("input_layernorm.weight")]:
        tensors[name][::16] *= LOUD
        for one in ("q_proj", "k_proj", "v_proj"):
            path = name.replace("input_layernorm", f"self_attn.{one}")
            tensors[path][:, ::16] /= LOUD
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY, tensors)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    bundle = api.export(checkpoint, tmp_path / "out", calibration=text)
    plain = api.export(checkpoint, tmp_path / "plain", calibration=text, smooth="off")

    assert bundle.manifest.smoothing.startswith("norms 0.")
    first, least = bundle.manifest.smoothing.rpartition("loss ")[2].split(" to ")
    assert float(least) < float(first) / 3
    assert plain.manifest.smoothing == ""
    assert api.verify(bundle.path).passed


def test_without_a_calibration_nothing_is_smoothed(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)

    bundle = api.export(checkpoint, tmp_path / "out")

    assert bundle.manifest.smoothing == ""


def test_a_ternary_checkpoint_is_not_smoothed(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", bitnet.TINY)

    with pytest.raises(ConfigError, match="is ternary: it is not smoothed"):
        api.export(checkpoint, tmp_path / "out", smooth="on")


def test_a_budget_that_is_too_small_is_refused_before_smoothing(
    tmp_path: Path, write_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_smoothing", pytest.fail)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    with pytest.raises(ConfigError, match="the smallest of the schemes takes"):
        api.export(
            checkpoint,
            tmp_path / "out",
            calibration=text,
            quantization=api.Quantization(name="auto", budget=1.0),
            smooth="on",
        )
