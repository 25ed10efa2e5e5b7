"""All Numba policy: how a kernel is declared, and how it is compiled to object code.

A kernel is a Python function of plain loops over arrays,
``kernel(thread, threads, inputs..., outputs..., attributes...)``. It is compiled to the C function
``void edgellm_<name>(int64 call, int64 thread, int64 threads)``, where ``call`` is the address of a
row of int64 in the program:

    [function address, input addresses..., output addresses..., sizes..., attributes...]

with the sizes in the order of ``SCHEMA.letters``. Compiled code allocates nothing, raises nothing
and needs nothing of Python; fast-math, bounds checks and Numba's own threads and cache stay off.

A kernel of several stages is called once a stage, as thread ``thread + threads * stage``, and all
threads meet in between. Its function has two more arguments: the stage, and ``notes``, (threads,
``Kernel.notes``) int64, where threads leave for the next stage what the others have to know. The
address of these is in the row, too, as its last field.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgellm import ops, registry
from edgellm.ops import OpSchema
from edgellm.runtime.cpu import Cpu
from edgellm.runtime.kernels import simd

POLICY: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",  # a division by zero gives 0 instead of an exception
    "boundscheck": False,
    "fastmath": False,
    "_nrt": False,  # no allocation, no reference counts
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

PART_POLICY: dict[str, Any] = {
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""For the functions that a kernel calls."""


@dataclass(frozen=True)
class Kernel:
    """A kernel: its operator, and the function that runs as plain Python.

    That function is also what is compiled, unless ``variant`` names a vector unit; then it is what
    ``vector/<name>.py`` builds.
    """

    op_type: str
    py: Callable[..., None]
    variant: str = simd.PORTABLE
    split: str = ""
    """How the work is divided among threads, see ``runtime/phases.py``."""
    stages: int = 1
    """How often it is called; if more than once, it divides its work itself, without a split."""
    notes: int = 0
    """Words of a thread, if there are stages."""

    @cached_property
    def schema(self) -> OpSchema:
        """The signature of its operator."""
        schema: OpSchema = ops.find(self.op_type).SCHEMA
        return schema

    @property
    def symbol(self) -> str:
        """The name of the compiled function."""
        name = f"edgellm_{self.py.__name__}"
        return name if self.variant == simd.PORTABLE else f"{name}_{self.variant}"

    def function(self) -> Callable[..., None]:
        """Return what is compiled."""
        if self.variant == simd.PORTABLE:
            return self.py
        from edgellm.runtime.kernels import vector

        build = registry.load(vector, self.py.__name__).build
        built: Callable[..., None] = build(simd.find(self.variant))
        return built


def kernel(
    op_type: str, split: str = "", *, stages: int = 1, notes: int = 0
) -> Callable[[Callable[..., None]], Kernel]:
    """Declare the decorated function as the kernel of ``op_type``; the rest is as in ``Kernel``."""

    def declare(function: Callable[..., None]) -> Kernel:
        return Kernel(op_type, function, split=split, stages=stages, notes=notes)

    return declare


def compile_kernel(target: Kernel, cpu: Cpu) -> bytes:
    """Compile a kernel to the bytes of an object file that defines its symbol."""
    return _emit(lower_kernel(target, cpu), cpu)


def lower_kernel(target: Kernel, cpu: Cpu) -> Any:  # noqa: ANN401
    """Return a kernel as an LLVM module that defines its symbol and nothing else."""
    from edgellm.runtime.kernels import _intrinsics, _numba_target

    _let_numba_see(cpu)
    plain = target.function()
    _share_parts(plain)
    function = _numba_target.declare(**POLICY)(plain)
    operands = _intrinsics.operands(target.schema)
    notes = _intrinsics.notes(target.schema, target.notes)

    def run_row(call: int, thread: int, threads: int) -> None:
        function(thread, threads, *operands(call))

    def run_stage(call: int, thread: int, threads: int) -> None:
        stage, own = thread // threads, thread % threads
        function(own, threads, *operands(call), stage, notes(call, threads))

    return _lower(run_row if target.stages == 1 else run_stage, target.symbol)


def compile_executor(symbol: str, cpu: Cpu) -> bytes:
    """Compile the walk through a program (see ``_executor``) to the bytes of an object file."""
    from edgellm.runtime.kernels import _executor

    _let_numba_see(cpu)
    _share_parts(_executor.run)
    return _emit(_lower(_executor.run, symbol), cpu)


def compile_crew(symbol: str, cpu: Cpu) -> bytes:
    """Compile the calls of several threads (see ``_executor``) to the bytes of an object file."""
    from edgellm.runtime.kernels import _executor

    _let_numba_see(cpu)
    _share_parts(_executor.crew)
    return _emit(_lower(_executor.crew, symbol), cpu)


def compile_dot_peak(symbol: str, variant: str, cpu: Cpu) -> bytes:
    """Compile the loop of a vector unit's dot products to the bytes of an object file."""
    from edgellm.runtime.kernels import _dot_peak

    _let_numba_see(cpu)
    loop = _dot_peak.build(simd.find(variant))
    _share_parts(loop)
    return _emit(_lower(loop, symbol), cpu)


def _let_numba_see(cpu: Cpu) -> None:
    """Give Numba the processor's name and features where nobody has: under qemu it sees neither.

    It generates code for what it sees, and LLVM ends the process when an instruction is missing.
    """
    from numba.core import config

    if config.CPU_NAME is None and config.CPU_FEATURES is None:  # type: ignore[attr-defined]
        config.CPU_NAME = cpu.name  # type: ignore[attr-defined]
        config.CPU_FEATURES = cpu.feature_string  # type: ignore[attr-defined]


_shared: set[Callable[..., Any]] = set()


def _share_parts(function: Callable[..., Any]) -> None:
    """Make the plain functions that ``function`` calls, directly or not, callable when compiled."""
    from numba.extending import register_jitable

    from edgellm.runtime.kernels import _intrinsics, _scalar, _vector_lowering

    _vector_lowering.install()
    is_plain = not function.__module__.startswith(f"{__package__}.vector")  # those share their own
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()] if is_plain else []
    for value in [*function.__globals__.values(), *enclosed]:
        part = value.__wrapped__ if hasattr(value, "cache_info") else value  # what builds once
        if not inspect.isfunction(part) or not part.__module__.startswith(__package__):
            continue
        if part in _shared or part is kernel:
            continue
        _shared.add(part)
        if part.__name__.startswith("stack_"):
            _intrinsics.place_on_stack(part, part.__name__.removeprefix("stack_"))
        elif part is _scalar.bit_length:
            _intrinsics.count_bits(part)
        elif part is _scalar.flat:
            _intrinsics.make_flat(part)
        elif part is _scalar.as_heads:
            _intrinsics.make_heads(part)
        elif not part.__name__.startswith("vector_"):
            register_jitable(**PART_POLICY)(part)
            _share_parts(part)


def _emit(module: Any, cpu: Cpu) -> bytes:  # noqa: ANN401
    """Return the object code of a module for a processor."""
    code: bytes = target_machine(cpu).emit_object(module)
    return code


def _lower(function: Callable[..., None], symbol: str) -> Any:  # noqa: ANN401
    """Compile ``function`` of int64 arguments and export it as the C function ``symbol``."""
    from llvmlite import binding

    from edgellm.runtime.kernels import _numba_target

    arguments = len(inspect.signature(function).parameters)
    module, inner = _numba_target.lower(function, POLICY, arguments)
    module.link_in(binding.parse_assembly(_c_function(symbol, inner, arguments)))
    _hide_all_but(module, symbol)
    _optimize(module)
    module.verify()
    return module


def _c_function(symbol: str, inner: str, arguments: int) -> str:
    """Return LLVM assembly of a C function around one of Numba's calling convention.

    That convention adds two pointers, for a result and an exception, of which kernels have none.
    """
    types = ", ".join(["i64"] * arguments)
    values = ", ".join(f"i64 %{i}" for i in range(arguments))
    return f"""
        declare i32 @"{inner}"(ptr, ptr, {types})
        define void @{symbol}({types}) {{
          %result = alloca ptr
          %exception = alloca ptr
          call i32 @"{inner}"(ptr %result, ptr %exception, {values})
          ret void
        }}"""


def _hide_all_but(module: Any, symbol: str) -> None:  # noqa: ANN401
    """Drop what the C function does not need, so that objects share no names."""
    from llvmlite import binding

    for item in [*module.functions, *module.global_variables]:
        if not item.is_declaration and item.name != symbol:
            item.linkage = "internal"
    manager = binding.create_new_module_pass_manager()
    manager.add_global_dead_code_eliminate_pass()
    manager.run(module, _pass_builder())


def _optimize(module: Any) -> None:  # noqa: ANN401
    builder = _pass_builder()
    builder.getModulePassManager().run(module, builder)


def _pass_builder() -> Any:  # noqa: ANN401
    """Return LLVM's passes as Numba chooses them: -O3, without vectors from straight code."""
    from llvmlite import binding

    from edgellm.runtime import cpu

    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.slp_vectorization = False
    return binding.create_pass_builder(target_machine(cpu.host()), options)


def target_machine(cpu: Cpu) -> Any:  # noqa: ANN401
    """Return LLVM's code generator for ``cpu``.

    On Arm the default of a JIT makes the address of each constant by four instructions, as if it
    were anywhere. It is near: llvmlite places all sections of an object in one block of memory
    (https://github.com/numba/llvmlite/pull/1009).
    """
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    model = "small" if cpu.machine in ("aarch64", "arm64") else "jitdefault"
    return binding.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.feature_string, opt=3, codemodel=model, jit=True
    )
