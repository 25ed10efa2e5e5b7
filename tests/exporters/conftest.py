"""Tiny random checkpoints on disk, and an interpreter of integer graphs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from edgellm import ops
from edgellm.config import JsonFields
from edgellm.exporters import tokenizer_files
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.source import load_architecture

Tensors = dict[str, np.ndarray]
PROJECTION_SCALE = 0.125


def is_ternary(config: Mapping[str, Any], name: str) -> bool:
    return "quantization_config" in config and "_proj.weight" in name


def random_tensors(config: Mapping[str, Any]) -> Tensors:
    """Tensors as a checkpoint stores them; linears keep the variance, norms differ from 1."""
    inventory = Inventory()
    load_architecture(JsonFields(config, "config.json")).build(inventory)
    rng = np.random.default_rng(0)
    tensors: Tensors = {}
    for parameter in inventory.parameters:
        name, shape = parameter.name, parameter.shape
        if len(shape) == 1:
            tensors[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif is_ternary(config, name):
            codes = rng.integers(0, 3, shape).astype(np.uint8)
            planes = codes.reshape(4, -1, shape[1])
            tensors[name] = sum(plane << (2 * i) for i, plane in enumerate(planes)).astype(np.uint8)
            scale = np.array([PROJECTION_SCALE], np.float32)
            divides = config["quantization_config"].get("linear_class") == "bitlinear"
            tensors[f"{name}_scale"] = 1 / scale if divides else scale
        else:
            tensors[name] = (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    return tensors


def write(path: Path, config: Mapping[str, Any], tensors: Tensors | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    tokenizer_files.write_byte_tokenizer(path)
    save_file(random_tensors(config) if tensors is None else tensors, path / "model.safetensors")
    return path


class Interpreter:
    """Runs a bundle's graph by the operators' ``reference`` functions, node by node."""

    def __init__(self, directory: Path) -> None:
        self.model = onnx.load(str(directory / "model.onnx"))
        graph = self.model.graph
        self.weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.empty_cache = {}
        for port in graph.input:
            if port.name.startswith("past"):
                kind = port.type.tensor_type
                shape = [dim.dim_value for dim in kind.shape.dim]  # 0 for what grows
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                self.empty_cache[port.name] = np.zeros(shape, dtype)

    def run(self, ids: np.ndarray) -> Tensors:
        """Return the graph's outputs for all rows of ``ids``, without a past."""
        rows = np.arange(len(ids))
        values = {**self.weights, **self.empty_cache}
        values.update(input_ids=ids.astype(np.int64), position_ids=rows, logit_rows=rows)
        for node in self.model.graph.node:
            attributes = {a.name: a.i for a in node.attribute}
            inputs = [values[name] for name in node.input]
            results = ops.find(node.op_type).reference(*inputs, **attributes)
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(node.output, results, strict=True))
        return {port.name: values[port.name] for port in self.model.graph.output}

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Return the real logits of all rows."""
        return self.run(ids)["logits"] * 2.0**-16


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    return write


@pytest.fixture
def tensors_of() -> Callable[[Mapping[str, Any]], Tensors]:
    return random_tensors


@pytest.fixture
def interpret() -> type[Interpreter]:
    return Interpreter
