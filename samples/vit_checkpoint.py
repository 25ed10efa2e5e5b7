"""The directory of a ViT checkpoint as transformers writes it: write it, and read it back."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from safetensors.torch import load_file, save
from vit_model import DEVIATION, EPSILON, MEAN, Vit, VitConfig


def write_checkpoint(model: Vit, directory: Path) -> None:
    """Write weights in float16, configuration and preprocessor."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().half() for name, weight in model.weights.items()}
    (directory / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    config = asdict(model.config)
    names = [str(number) for number in range(config.pop("num_labels"))]
    write_json(
        directory / "config.json",
        {
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            **config,
            "num_channels": 1,
            "hidden_act": "gelu",
            "qkv_bias": True,
            "layer_norm_eps": EPSILON,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.02,
            "id2label": {name: name for name in names},
            "label2id": {name: int(name) for name in names},
            "torch_dtype": "float16",
        },
    )
    side = model.config.image_size
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN],
            "image_std": [DEVIATION],
        },
    )


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_checkpoint(directory: Path) -> Vit:
    """Read a checkpoint as a float32 model that computes what the file says."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    values["num_labels"] = len(values["id2label"])
    config = VitConfig(**{field.name: values[field.name] for field in fields(VitConfig)})
    return Vit(config, load_file(directory / "model.safetensors"))
