"""Parts of the float model of a checkpoint, run one after the other on calibration texts.

The float graph is cut where the residual stream passes: between two cuts lie the linears of one
block. A part reads the weights from the file anew; so weights that were written there in the
meantime count.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgellm.errors import ExportError
from edgellm.exporters.gradients import active_values, backward

STREAM_SUFFIX = "/residual"
PRODUCTS = ("Gemm", "MatMul")
"""Operators of linears: the first with a weight (N, K), the second with one of (K, N)."""
PART = "part.onnx"

Input = npt.NDArray[np.generic]
Activations = npt.NDArray[np.float32]
Feeds = Mapping[str, Input]
WeightedInput = tuple[Input, Mapping[str, Activations]]
Run = Callable[[Path, Sequence[str], Iterable[Feeds]], Iterator[dict[str, Activations]]]
"""(path of an ONNX model, names of outputs, feeds) -> for each of the feeds the outputs by name.

The model is read at once, each of the feeds when its outputs are asked for."""


@dataclass(frozen=True)
class Linear:
    """A linear in the float graph.

    Attributes:
        path: of the checkpoint.
        x: name of its input.
        y: name of its output.
        weight: name of its weight.
        shape: (N, K).
        is_turned: the file has the weight as (K, N).
    """

    path: str
    x: str
    y: str
    weight: str
    shape: tuple[int, int]
    is_turned: bool = False


@dataclass(frozen=True)
class Block:
    """What lies between two cuts.

    Attributes:
        begin: the stream that goes in, or None for the input of the model.
        end: the stream that comes out.
        stages: linears with the same input, in the order of the graph.
        last: the path of the linear whose output is added to the stream.
        carried: what it is added to.
    """

    begin: str | None
    end: str
    stages: tuple[tuple[Linear, ...], ...]
    last: str
    carried: str


@dataclass(frozen=True)
class WayBack:
    """The nodes of a part of a model, to go back through.

    Attributes:
        taken: names of the values that this takes, in the order of the graph.
    """

    taken: Sequence[str]
    _nodes: Sequence[onnx.NodeProto]
    _constants: Mapping[str, Input]
    _sources: Collection[str]
    _wanted: Collection[str]

    def gradients(
        self, values: Mapping[str, Input], seeds: Mapping[str, Activations]
    ) -> dict[str, Activations]:
        """Return the gradients of the wanted values.

        Args:
            values: those that are ``taken``, the input of the model, and other weights than those
                in the file.
            seeds: the gradients of values at the end, by name.
        """
        known = {**self._constants, **values}
        return backward(self._nodes, known, seeds, self._wanted, self._sources)


class FloatParts:
    """A float model on disk: ``model.onnx`` and its external weights."""

    def __init__(self, model: Path, run: Run) -> None:
        """Read the graph; ``run`` computes a part."""
        self._directory = model.parent
        self._run = run
        loaded = onnx.load(str(model), load_external_data=False)
        self._graph, self._opset = loaded.graph, loaded.opset_import
        self._input = self._graph.input[0]
        self.output = self._graph.output[0].name
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._constants = {item.name: item for item in self._graph.initializer}

    def blocks(self, linears: Collection[str]) -> list[Block]:
        """Return the blocks in order; ``linears`` are the paths that count as linears.

        What comes behind the last cut, such as the head of a classifier, is in none.
        """
        wanted = {f"{path}.weight": path for path in linears}
        blocks, begin = [], None
        pending: dict[str, list[Linear]] = {}
        product = ""
        for node in self._graph.node:
            weight = next((name for name in node.input if name in wanted), None)
            if node.op_type in PRODUCTS and weight is not None:
                linear = self._linear(node, wanted[weight])
                pending.setdefault(linear.x, []).append(linear)
                product = linear.path
            if node.output[0].endswith(STREAM_SUFFIX):
                stages = tuple(tuple(stage) for stage in pending.values())
                blocks.append(Block(begin, node.output[0], stages, product, node.input[0]))
                begin, pending = node.output[0], {}
        return blocks

    def find(self, paths: Collection[str]) -> dict[str, Linear]:
        """Return linears by path, wherever they are in the graph."""
        wanted = {f"{path}.weight": path for path in paths}
        found = {}
        for node in self._graph.node:
            if node.op_type in PRODUCTS and node.input[1] in wanted:
                path = wanted[node.input[1]]
                found[path] = self._linear(node, path)
        return found

    def _linear(self, node: onnx.NodeProto, path: str) -> Linear:
        x, weight = node.input[:2]
        rows, columns = self._constants[weight].dims
        if node.op_type == "MatMul":
            return Linear(path, x, node.output[0], weight, (columns, rows), is_turned=True)
        return Linear(path, x, node.output[0], weight, (rows, columns))

    def weight(self, linear: Linear) -> npt.NDArray[np.float32]:
        """Return the weight as the file has it now, (N, K)."""
        stored = self._mapped(linear, "r")
        return np.array(stored.T if linear.is_turned else stored)

    def replace(self, linear: Linear, weight: npt.NDArray[np.floating]) -> None:
        """Write another weight into the file."""
        self._mapped(linear, "r+")[:] = weight.T if linear.is_turned else weight

    def run(
        self,
        begin: str | None,
        outputs: Sequence[str],
        inputs: Sequence[Input],
        streams: Sequence[Activations],
        known: Mapping[str, Sequence[Activations]] = MappingProxyType({}),
    ) -> list[dict[str, Activations]]:
        """Run from a stream to some values, input by input.

        Args:
            begin: name of the stream, None to start from the input of the model.
            outputs: names of values.
            inputs: such as the token ids of each text.
            streams: (..., hidden) of each input; unused without ``begin``.
            known: further values of each input, by name, that are not to be computed again.

        Returns:
            for each input the values by name.
        """
        path = self._directory / PART
        given = dict(known) if begin is None else {**known, begin: streams}
        made = [name for name in outputs if name not in given]
        path.write_bytes(self._part(given, made).SerializeToString())
        feeds: list[dict[str, Input]] = [
            {self._input.name: x, **{name: values[i] for name, values in given.items()}}
            for i, x in enumerate(inputs)
        ]
        results = list(self._run(path, made, feeds)) if made else [{} for _ in inputs]
        for name in [name for name in outputs if name in given]:
            for result, value in zip(results, given[name], strict=True):
                result[name] = value
        return results

    def gradients(
        self,
        begin: str | None,
        inputs: Sequence[Input],
        streams: Sequence[Activations],
        seeds: Sequence[Mapping[str, Activations]],
        wanted: Collection[str],
    ) -> list[dict[str, Activations]]:
        """Return gradients of values between a stream and some values behind it.

        Args:
            begin: name of the stream, None to start from the input of the model.
            inputs: such as the token ids of each text.
            streams: of each input; unused without ``begin``.
            seeds: for each input the gradients of values at the end, by name.
            wanted: names of those whose gradients are returned.
        """
        way = self.way_back(begin, list(seeds[0]), wanted)
        results = self.run(begin, way.taken, inputs, streams)
        return [
            way.gradients({**values, self._input.name: given}, seed)
            for values, given, seed in zip(results, inputs, seeds, strict=True)
        ]

    def way_back(self, begin: str | None, ends: Sequence[str], wanted: Collection[str]) -> WayBack:
        """Return the nodes between a stream and some values behind it.

        Args:
            begin: name of the stream, None to start from the input of the model.
            ends: names of values.
            wanted: names of those whose gradients will be asked for.
        """
        sources = wanted if begin is None else {begin}
        nodes = self._nodes({begin} if begin else (), ends)
        active = active_values(nodes, sources)
        taken = {name for node in nodes if active.intersection(node.output) for name in node.input}
        made = [name for node in nodes for name in node.output if name in active | taken]
        made += [begin] if begin else []
        constants = {name: self._constant(name) for name in taken & self._constants.keys()}
        return WayBack(made, nodes, constants, sources, wanted)

    def run_with(
        self, outputs: Sequence[str], weights: Collection[str], feeds: Iterable[WeightedInput]
    ) -> Iterator[dict[str, Any]]:
        """Run the model with other weights than those in the file.

        Args:
            outputs: names of values.
            weights: names of these weights.
            feeds: each input, with the weights by name; it is asked for when its values are.

        Returns:
            for each input its values by name, with it and the weights.
        """
        path = self._directory / PART
        path.write_bytes(self._part(weights, outputs).SerializeToString())
        first, second = tee(feeds)
        results = self._run(path, outputs, ({self._input.name: x, **w} for x, w in first))
        return (
            {self._input.name: x, **w, **values}
            for (x, w), values in zip(second, results, strict=True)
        )

    def _constant(self, name: str) -> Input:
        constant = self._constants[name]
        if not constant.external_data:
            return onnx.numpy_helper.to_array(constant)
        return self._external(name, tuple(constant.dims), "r")

    def _part(self, given: Collection[str], outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the nodes that lead from given values, and from the model's input, to others."""
        nodes = self._nodes(given, outputs)
        used = {name for node in nodes for name in node.input}
        inputs = [self._input]
        for name in given:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        graph = helper.make_graph(
            nodes,
            "part",
            [item for item in inputs if item.name in used],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            initializer=[
                item for name, item in self._constants.items() if name in used.difference(given)
            ],
        )
        return helper.make_model(graph, opset_imports=self._opset, ir_version=10)

    def _nodes(self, given: Collection[str], outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """Return the nodes that lead from given values, and from the model's input, to others."""
        known = {self._input.name, *given}
        needed, waiting = set[str](), list(outputs)
        while waiting:
            name = waiting.pop()
            if name in known or name in needed or name in self._constants or not name:
                continue
            needed.add(name)
            waiting.extend(self._makers[name].input)
        return [node for node in self._graph.node if needed.intersection(node.output)]

    def _mapped(self, linear: Linear, mode: str) -> npt.NDArray[np.float32]:
        shape = linear.shape[::-1] if linear.is_turned else linear.shape
        return self._external(linear.weight, shape, mode)

    def _external(self, name: str, shape: tuple[int, ...], mode: str) -> npt.NDArray[np.float32]:
        facts: Mapping[str, str] = {
            entry.key: entry.value for entry in self._constants[name].external_data
        }
        if not facts:
            raise ExportError(f"{name}: too small to be quantised in groups")
        return np.memmap(
            self._directory / facts["location"],
            np.float32,
            mode=mode,  # type: ignore[call-overload]
            offset=int(facts["offset"]),
            shape=shape,
        )
