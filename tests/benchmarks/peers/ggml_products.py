"""Single products in ggml, the library beneath llama.cpp, called through ctypes."""

import ctypes
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.peers.gguf_files import block_pool, tensor_bytes
from tests.benchmarks.peers.measures import Measure, mean_seconds, timed
from tests.benchmarks.peers.products import copies_of
from tests.benchmarks.peers.shapes import ProductShape

OVERHEAD_BYTES = 8 << 20
"""Room for tensors' headers, the graph and the quantised activations."""


class InitParameters(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@dataclass(frozen=True)
class GgmlProduct:
    """ggml's product with weights in a block format."""

    name: str
    kind: str
    shape: ProductShape

    def open(self) -> "GgmlRunner":
        return GgmlRunner(self.kind, self.shape)


class GgmlRunner:
    """A graph of nothing but products, one with each copy of the weights."""

    def __init__(self, kind: str, shape: ProductShape) -> None:
        from gguf import GGMLQuantizationType

        self._library = load_ggml()
        self._shape = shape
        self._type = int(GGMLQuantizationType[kind])
        self.weight_bytes = tensor_bytes((shape.rows, shape.columns), kind)
        copies = copies_of(self.weight_bytes)
        blocks = np.resize(block_pool(kind), self.weight_bytes)
        size = copies * self.weight_bytes + OVERHEAD_BYTES
        self._weights_memory, context = self._context(size)
        self._weights = []
        for _ in range(copies):
            weight = self._library.ggml_new_tensor_2d(
                context, self._type, shape.columns, shape.rows
            )
            address = self._library.ggml_get_data(weight)
            ctypes.memmove(address, blocks.ctypes.data, self.weight_bytes)
            self._weights.append(weight)
        self._scratch = np.ones(1, np.uint8)

    def _context(self, size: int) -> tuple[np.ndarray, int]:
        memory = np.ones(size, np.uint8)
        parameters = InitParameters(size, memory.ctypes.data, False)
        return memory, self._library.ggml_init(parameters)

    def seconds(self, measure: Measure) -> float:
        library, shape = self._library, self._shape
        weights = self._weights[: copies_of(self.weight_bytes, measure.tokens)]
        result_bytes = measure.tokens * shape.rows * 4 * len(weights)
        needed = OVERHEAD_BYTES + result_bytes + measure.tokens * shape.columns * 8
        if len(self._scratch) < needed:
            self._scratch = np.ones(needed, np.uint8)

        def run() -> float:
            parameters = InitParameters(needed, self._scratch.ctypes.data, False)
            context = library.ggml_init(parameters)
            x = library.ggml_new_tensor_2d(context, 0, shape.columns, measure.tokens)
            values = np.random.default_rng(0).standard_normal(
                (measure.tokens, shape.columns), np.float32
            )
            ctypes.memmove(library.ggml_get_data(x), values.ctypes.data, values.nbytes)
            graph = library.ggml_new_graph(context)
            for weight in weights:
                library.ggml_build_forward_expand(graph, library.ggml_mul_mat(context, weight, x))
            taken = timed(
                lambda: library.ggml_graph_compute_with_ctx(context, graph, measure.threads)
            )
            library.ggml_free(context)
            return taken

        return mean_seconds(run) / len(weights)


def load_ggml():
    """Return the ggml that llama-cpp-python brings, with the signatures that are used here."""
    from llama_cpp._ggml import libggml

    pointer, number = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "ggml_init": (pointer, [InitParameters]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, number, number]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_new_graph": (pointer, [pointer]),
        "ggml_build_forward_expand": (None, [pointer, pointer]),
        "ggml_graph_compute_with_ctx": (ctypes.c_int, [pointer, pointer, ctypes.c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(libggml, name)
        function.restype, function.argtypes = result, arguments
    return libggml
