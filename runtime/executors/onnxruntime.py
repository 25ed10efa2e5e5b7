"""Stock onnxruntime on the bundle's graph: each operator runs by its body of standard operators."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.bundle import Bundle
from edgellm.errors import BundleError, MissingDependencyError
from edgellm.runtime.plan import Plan

Array = npt.NDArray[np.generic]

# Folding would unpack packed weights when the session is made, four times their memory.
DISABLED_OPTIMIZERS = ["ConstantFolding"]


class Executor:
    """Run the graph of a bundle with onnxruntime; chunk makes no difference.

    Only bodies that this edgellm would write are run: a stranger's could fill the memory.
    """

    def __init__(
        self, bundle: Bundle, plan: Plan, *, threads: int = 1, chunk: int | None = None
    ) -> None:
        self._bundle = bundle
        self._plan = plan
        self._threads = threads
        self._require_own_bodies()

    def run(self, feeds: Mapping[str, Array], *, trace: bool = False) -> dict[str, Array]:
        """Return the graph's outputs by name, or every value that a step makes when tracing."""
        session = self._open(self._traced_graph()) if trace else self._session
        names = [output.name for output in session.get_outputs()]
        wanted = {item.name for item in session.get_inputs()}
        given = {name: array for name, array in feeds.items() if name in wanted}
        with self._refusals_named():
            return dict(zip(names, session.run(names, given), strict=True))

    def _require_own_bodies(self) -> None:
        """Check that the functions of the graph are the operators' bodies, and data their weights.

        Raises:
            BundleError: they are not.
        """
        import onnx

        path = self._bundle.graph_path
        model = onnx.load(path, load_external_data=False)
        for function in model.functions:
            if function.domain != ops.DOMAIN or function != ops.find(function.name).body():
                raise BundleError(
                    f"{path}: the body of {function.name} is not the one of this edgellm, and is "
                    "not run; export the bundle again, or check the others: --executor numba"
                )
        if model.graph.sparse_initializer or model.training_info:
            raise BundleError(f"{path}: holds sparse weights or training, which no export writes")

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401
        """Made when it is needed: with all bodies inlined that takes seconds."""
        return self._open(str(self._bundle.graph_path))

    def _open(self, graph: str | bytes) -> Any:  # noqa: ANN401
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "the onnxruntime executor needs onnxruntime: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if isinstance(graph, bytes):
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path",
                str(self._bundle.path.resolve()),
            )
        with self._refusals_named():
            return onnxruntime.InferenceSession(
                graph,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=DISABLED_OPTIMIZERS,
            )

    @contextmanager
    def _refusals_named(self) -> Iterator[None]:
        """Name the graph when onnxruntime refuses it."""
        try:
            yield
        except Exception as error:  # its errors share no other base
            reason = " ".join(str(error).split())
            path = self._bundle.graph_path
            raise BundleError(f"{path}: onnxruntime refuses it: {reason}") from error

    def _traced_graph(self) -> bytes:
        """Return the graph with every value that a step makes as an output."""
        import onnx

        model = onnx.load(self._bundle.graph_path, load_external_data=False)
        present = {output.name for output in model.graph.output}
        for step in self._plan.steps:
            for name in step.outputs:
                if name not in present:
                    value = self._plan.values[name]
                    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
                    model.graph.output.append(
                        onnx.helper.make_tensor_value_info(name, kind, value.shape)
                    )
        content: bytes = model.SerializeToString()
        return content
