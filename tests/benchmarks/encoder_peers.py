"""The networks of ``encoders.py`` for onnxruntime: float32, with a mask, quantised by itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgellm.config import JsonFields
from edgellm.exporters import encoder_source
from edgellm.exporters.encoder_build import write_float_model
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.encoder_float32 import Float32EncoderLowering
from edgellm.exporters.lowering.encoder_interface import TextTables

Feeds = dict[str, np.ndarray]
FAR = -10_000.0
"""Added to scores of padding."""


def image_model(config: Path) -> Path:
    """Write the float32 network of an image classifier."""
    folder = config.with_suffix(".float")
    path = folder / "model.onnx"
    if not path.exists():
        write_float_model(encoder_source.from_config(JsonFields.read(config), 0), folder)
    return path


class MaskedLowering(Float32EncoderLowering):
    """Sentences padded to one length, as users run them: a mask in attention and in the mean."""

    def text_tokens(self, tables: TextTables) -> str:
        self.graph.input("attention_mask", "float32", ("sequences", "length"))
        axes = self.graph.initializer("axes_1_2", np.array([1, 2]))
        hidden = self._emit("Sub", [self.graph.number(1.0), "attention_mask"])
        far = self._emit("Mul", [hidden, self.graph.number(FAR)])
        self._added = self._emit("Unsqueeze", [far, axes])
        return super().text_tokens(tables)

    def _emit(self, op_type: str, inputs: Sequence[str], attributes=None) -> str:
        if op_type == "Softmax":
            inputs = [super()._emit("Add", [*inputs, self._added])]
        return super()._emit(op_type, inputs, attributes)

    def embeddings(self, path: str, x: str, pooling: str, *, normalize: bool) -> None:
        last = self.graph.initializer("axis_2", np.array([2]))
        mask = self._emit("Unsqueeze", ["attention_mask", last])
        axis = self.graph.initializer("axis_1", np.array([1]))
        total = self._emit("ReduceSum", [self._emit("Mul", [x, mask]), axis], {"keepdims": 0})
        count = self._emit("ReduceSum", [mask, axis], {"keepdims": 0})
        self.graph.standard("Div", "embeddings", [total, count])
        self.graph.output("embeddings", "float32", ("sequences", "size"))


def masked_model(config: Path) -> Path:
    """Write the float32 network of a sentence encoder, for padded batches."""
    folder = config.with_suffix(".float")
    path = folder / "model.onnx"
    if path.exists():
        return path
    folder.mkdir()
    source = encoder_source.from_config(JsonFields.read(config), 0)
    epsilon = source.model.config.encoder.layer_norm_eps
    with (folder / "weights.bin").open("wb") as stream:
        builder = GraphBuilder(source.model_type, stream)
        source.model.build(MaskedLowering(builder, source.weights, epsilon))
    path.write_bytes(builder.serialize())
    return path


def padded(texts: Sequence[np.ndarray], size: int) -> list[Feeds]:
    """Return batches of so many texts, padded to the longest of each."""
    batches = []
    for begin in range(0, len(texts), size):
        some = texts[begin : begin + size]
        ids = np.zeros((len(some), max(map(len, some))), np.int64)
        mask = np.zeros(ids.shape, np.float32)
        for row, text in enumerate(some):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


class Calibration(CalibrationDataReader):
    """Images, one after the other."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self._left: Iterator[Feeds] = iter([{"pixel_values": image} for image in images])

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def quantized(model: Path, images: Sequence[np.ndarray], operators: Sequence[str]) -> Path:
    """Return the model as onnxruntime's static quantisation makes it.

    Args:
        model: float32.
        images: to calibrate with.
        operators: to quantise; all that it can if none are named.
    """
    whole, prepared = model.with_name("whole.onnx"), model.with_name("prepared.onnx")
    path = model.with_name("_".join(["int8", *operators]) + ".onnx")
    if not prepared.exists():
        onnx.save(onnx.load(model), whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    if not path.exists():
        quantize_static(
            prepared,
            path,
            Calibration(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators) or None,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return path


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a model on so many threads, which look for work only while a run lasts.

    Otherwise they do for a while after it, on the cores of the contender whose turn is next.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
