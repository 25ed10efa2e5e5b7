"""Single products of a weight matrix with one row or many: our kernels and onnxruntime.

Each walks over copies of its weights, so that they come from memory and not from a cache.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.runtime import kernels
from edgellm.runtime.kernels import _objects
from edgellm.runtime.program import TAIL
from edgellm.runtime.threads import Workers
from tests.benchmarks.operands import copies_in_huge_pages, in_huge_pages
from tests.benchmarks.peers.measures import Measure, mean_seconds, timed
from tests.benchmarks.peers.shapes import ProductShape

WALKED_BYTES = 512 << 20
COPIES_OF_MANY_ROWS = 4
"""Where a weight is used so often that it does not matter where it comes from."""
BLOCK = 128
EXECUTOR_ARGUMENTS = 6
LINE = 64


def copies_of(weight_bytes: int, tokens: int = 1) -> int:
    return -(-WALKED_BYTES // weight_bytes) if tokens == 1 else COPIES_OF_MANY_ROWS


@dataclass(frozen=True)
class OurProduct:
    """A kernel of ours, run by the engine's executor."""

    name: str
    op_type: str
    shape: ProductShape

    def open(self) -> "OurProductRunner":
        return OurProductRunner(self.op_type, self.shape)


class OurProductRunner:
    """A program of nothing but products, one with each copy of the weights."""

    def __init__(self, op_type: str, shape: ProductShape) -> None:
        self._op_type, self._shape = op_type, shape
        weight = codes_of(op_type, shape)
        self.weight_bytes = weight.nbytes
        self._weights = copies_in_huge_pages(weight, copies_of(weight.nbytes))
        self._workers: dict[int, Workers] = {}
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * EXECUTOR_ARGUMENTS)
        self._execute = prototype(_objects.executor_address())

    def seconds(self, measure: Measure) -> float:
        threads = measure.threads
        workers = self._workers.setdefault(threads, Workers(threads))
        program, keep = self._program(measure.tokens)
        meeting = np.zeros((1 + threads) * LINE // 8, np.int64)

        def task(thread: int) -> None:
            rows, row_bytes = len(program), program.strides[0]
            address = program.ctypes.data
            self._execute(address, rows, row_bytes, thread, threads, meeting.ctypes.data)

        def give_up() -> None:
            meeting[1] = 1

        def run() -> None:
            meeting[:2] = 0
            workers.run(task, give_up)

        taken = mean_seconds(lambda: timed(run)) / len(program)
        del keep
        return taken

    def _program(self, tokens: int) -> tuple[npt.NDArray[np.int64], tuple[np.ndarray, ...]]:
        """Return the rows, as ``runtime/program.py`` has them, and what they point to."""
        kernel = kernels.find(self._op_type)
        weights = self._weights[: copies_of(self.weight_bytes, tokens)]
        x = np.random.default_rng(0).integers(-127, 128, (tokens, self._shape.columns), np.int8)
        x = in_huge_pages(x)
        acc = in_huge_pages(np.zeros((tokens, self._shape.rows), np.int32))
        sizes = kernel.schema.bind([x.shape, weights.shape[1:]])
        address = _objects.kernel_address(kernel)
        operands = [[x.ctypes.data, weight.ctypes.data, acc.ctypes.data] for weight in weights]
        letters = [sizes[letter] for letter in kernel.schema.letters]
        fields = np.array([[address, *row, *letters] for row in operands], np.int64)
        program = np.zeros((len(fields), 3 * fields.shape[1] + TAIL), np.int64)
        program[:, : fields.shape[1]] = fields
        program[:, -1] = 1  # all threads meet before each
        return program, (x, acc)


def codes_of(op_type: str, shape: ProductShape) -> np.ndarray:
    """Return random weights as an operator has them."""
    from edgellm.dtypes import pack_ternary, pack_trits

    rng = np.random.default_rng(0)
    sizes = shape.rows, shape.columns
    if op_type == "Int8Linear":
        return rng.integers(-127, 128, sizes, np.int8)
    pack = pack_ternary if op_type == "BitLinear" else pack_trits
    return pack(rng.integers(-1, 2, sizes, np.int8))


@dataclass(frozen=True)
class OnnxRuntimeProduct:
    """onnxruntime's MatMulNBits with int8 activations; 8 bits: its dynamic int8 product."""

    name: str
    bits: int
    shape: ProductShape

    def open(self) -> "OnnxRuntimeRunner":
        return OnnxRuntimeRunner(self.bits, self.shape)


class OnnxRuntimeRunner:
    """A session with one node for each copy of the weights; it runs them one after the other."""

    def __init__(self, bits: int, shape: ProductShape) -> None:
        self._shape, self._bits = shape, bits
        product = int8_product if bits == 8 else nbits_product
        self._nodes, self._constants, self.weight_bytes = product(bits, shape)
        self._session = None
        self._session_key = (0, 0)

    def seconds(self, measure: Measure) -> float:
        copies = copies_of(self.weight_bytes, measure.tokens)
        if self._session_key != (copies, measure.threads):
            self._session_key = copies, measure.threads
            self._session = None  # its memory, before that of the next
            self._session = self._new_session(copies, measure.threads)
        shape = (measure.tokens, self._shape.columns)
        feed = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
        return mean_seconds(lambda: timed(lambda: self._session.run(None, feed))) / copies

    def _new_session(self, copies: int, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        model = repeated_model(self._nodes, self._constants, copies, self._shape)
        return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


Product = tuple[list, dict[str, np.ndarray], int]
"""Nodes from x to y, their constants, and the bytes of weights."""


def nbits_product(bits: int, shape: ProductShape) -> Product:
    """Return a MatMulNBits in blocks of 128, with int8 activations."""
    from onnx import helper

    rng = np.random.default_rng(0)
    blocks = shape.columns // BLOCK
    packed = rng.integers(0, 256, (shape.rows, blocks, BLOCK * bits // 8), np.uint8)
    scales = np.full(shape.rows * blocks, 0.02, np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=shape.columns,
        N=shape.rows,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=4,
    )
    return [node], {"w": packed, "s": scales}, packed.nbytes + scales.nbytes


def int8_product(_bits: int, shape: ProductShape) -> Product:
    """Return what onnxruntime's dynamic quantisation makes of a MatMul."""
    from onnx import helper

    weight = np.ascontiguousarray(codes_of("Int8Linear", shape).T)
    make = helper.make_node
    nodes = [
        make("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
        make("MatMulInteger", ["codes", "w", "zero"], ["acc"]),
        make("Cast", ["acc"], ["real"], to=1),
        make("Mul", ["scale", "s"], ["both"]),
        make("Mul", ["real", "both"], ["y"]),
    ]
    return nodes, {"w": weight, "s": np.full(shape.rows, 0.01, np.float32)}, weight.nbytes


def repeated_model(
    nodes: list, constants: dict[str, np.ndarray], copies: int, shape: ProductShape
) -> bytes:
    """Return a model of copies of ``nodes``, each with constants of its own, all reading x.

    From x (tokens, columns) to y0, y1... (tokens, rows), float32.
    """
    from onnx import NodeProto, TensorProto, helper, numpy_helper

    every: list[NodeProto] = []
    initializers, outputs = [], []
    for index in range(copies):
        for node in nodes:
            twin = NodeProto()
            twin.CopyFrom(node)
            twin.input[:] = [name if name == "x" else f"{name}{index}" for name in node.input]
            twin.output[:] = [f"{name}{index}" for name in node.output]
            every.append(twin)
        for name, array in constants.items():
            array.flat[0] = index % 100  # onnxruntime merges what is equal
            array.flat[1] = index // 100
            initializers.append(numpy_helper.from_array(array, f"{name}{index}"))
        outputs.append(
            helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, ["tokens", shape.rows])
        )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", shape.columns])
    graph = helper.make_graph(every, "products", [x], outputs, initializers)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
