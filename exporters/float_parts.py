"""Parts of the float model of a checkpoint, run one after the other on calibration texts.

The float graph is cut where the residual stream passes: between two cuts lie the linears of one
block. A part reads the weights from the file anew; so weights that were written there in the
meantime count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgellm.errors import ExportError

STREAM_SUFFIX = "/residual"
IDS = "input_ids"
PART = "part.onnx"

Activations = npt.NDArray[np.float32]
Feeds = Mapping[str, npt.NDArray[np.generic]]
Run = Callable[[Path, Sequence[str], Sequence[Feeds]], list[dict[str, Activations]]]
"""(path of an ONNX model, names of outputs, feeds) -> for each of the feeds the outputs by name."""


@dataclass(frozen=True)
class Linear:
    """A linear in the float graph: its path, the names of its input and of its weight."""

    path: str
    x: str
    weight: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """What lies between two cuts.

    Attributes:
        begin: the stream that goes in, or None for the token ids.
        end: the stream that comes out.
        stages: linears with the same input, in the order of the graph.
        last: the path of the linear whose output is added to the stream.
    """

    begin: str | None
    end: str
    stages: tuple[tuple[Linear, ...], ...]
    last: str


class FloatParts:
    """A float model on disk: ``model.onnx`` and its external weights."""

    def __init__(self, model: Path, run: Run) -> None:
        """Read the graph; ``run`` computes a part."""
        self._directory = model.parent
        self._run = run
        self._graph = onnx.load(str(model), load_external_data=False).graph
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._constants = {item.name: item for item in self._graph.initializer}
        self._opset = onnx.load(str(model), load_external_data=False).opset_import

    def blocks(self, linears: Sequence[str]) -> list[Block]:
        """Return the blocks in order; ``linears`` are the paths that count as linears."""
        wanted = {f"{path}.weight": path for path in linears}
        blocks, begin = [], None
        pending: dict[str, list[Linear]] = {}
        product = ""
        for node in self._graph.node:
            weight = next((name for name in node.input if name in wanted), None)
            if node.op_type == "Gemm" and weight is not None:
                shape = tuple(self._constants[weight].dims)
                linear = Linear(wanted[weight], node.input[0], weight, (shape[0], shape[1]))
                pending.setdefault(linear.x, []).append(linear)
                product = linear.path
            if node.output[0].endswith(STREAM_SUFFIX):
                stages = tuple(tuple(stage) for stage in pending.values())
                blocks.append(Block(begin, node.output[0], stages, product))
                begin, pending = node.output[0], {}
        return blocks

    def weight(self, linear: Linear) -> npt.NDArray[np.float32]:
        """Return the weight as the file has it now, (N, K)."""
        return np.array(self._mapped(linear, "r"))

    def replace(self, linear: Linear, weight: npt.NDArray[np.floating]) -> None:
        """Write another weight into the file."""
        self._mapped(linear, "r+")[:] = weight

    def run(
        self,
        begin: str | None,
        outputs: Sequence[str],
        texts: Sequence[npt.NDArray[np.int64]],
        streams: Sequence[Activations],
    ) -> list[dict[str, Activations]]:
        """Run from a stream to some values, text by text.

        Args:
            begin: name of the stream, None to start from the token ids.
            outputs: names of values.
            texts: the token ids of each text.
            streams: (tokens, hidden) of each text; unused without ``begin``.

        Returns:
            for each text the values by name.
        """
        path = self._directory / PART
        path.write_bytes(self._part(begin, outputs).SerializeToString())
        feeds: list[dict[str, npt.NDArray[np.generic]]] = [{IDS: ids} for ids in texts]
        if begin is not None:
            for feed, stream in zip(feeds, streams, strict=True):
                feed[begin] = stream
        return self._run(path, outputs, feeds)

    def _part(self, begin: str | None, outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the nodes that lead from a stream, and from the token ids, to some values."""
        known = {IDS} if begin is None else {IDS, begin}
        needed, waiting = set[str](), list(outputs)
        while waiting:
            name = waiting.pop()
            if name in known or name in needed or name in self._constants or not name:
                continue
            needed.add(name)
            waiting.extend(self._makers[name].input)
        nodes = [node for node in self._graph.node if needed.intersection(node.output)]
        used = {name for node in nodes for name in node.input}
        inputs = [helper.make_tensor_value_info(IDS, TensorProto.INT64, ["tokens"])]
        if begin is not None:
            stream = helper.make_tensor_value_info(begin, TensorProto.FLOAT, ["tokens", "hidden"])
            inputs.append(stream)
        graph = helper.make_graph(
            nodes,
            "part",
            [item for item in inputs if item.name in used],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            initializer=[item for name, item in self._constants.items() if name in used],
        )
        return helper.make_model(graph, opset_imports=self._opset, ir_version=10)

    def _mapped(self, linear: Linear, mode: str) -> npt.NDArray[np.float32]:
        facts: Mapping[str, str] = {
            entry.key: entry.value for entry in self._constants[linear.weight].external_data
        }
        if not facts:
            raise ExportError(f"{linear.weight}: too small to be quantised in groups")
        return np.memmap(
            self._directory / facts["location"],
            np.float32,
            mode=mode,  # type: ignore[call-overload]
            offset=int(facts["offset"]),
            shape=linear.shape,
        )
