"""A target of Numba that stops at LLVM's code, not yet optimised: imported only to compile.

Numba optimises each function and generates its machine code before it compiles the function that
calls it, and there once more, with all that was called. Here the modules of all functions of a
kernel are linked once, to be optimised once, in half of the time. Contexts are our own: nothing
that Numba compiles for others meets what is compiled here, which could not be run.
"""

# mypy: disable-error-code="no-untyped-call,misc,attr-defined"
# Numba's internals have no types.

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from numba import int64, jit
from numba.core import codegen, cpu, target_extension
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.core.runtime.nrt import rtsys
from numba.core.typing.context import Context as TypingContext

NAME = "edgellm"


class Library(codegen.JITCodeLibrary):
    """The modules of a function, and the libraries of those that it calls."""

    def finalize(self) -> None:
        """Neither link nor optimise."""
        self._raise_if_finalized()
        self._finalized = True

    def _optimize_functions(self, ll_module: Any) -> None:  # noqa: ANN401
        ll_module.data_layout = self._codegen._data_layout

    def linked(self) -> Any:  # noqa: ANN401
        """Return one module, of this function and all that it needs."""
        module = self._final_module.clone()
        for library in _all_called(self, {self}):
            module.link_in(library._final_module, preserve=True)
        return module


def _all_called(library: Library, seen: set[Library]) -> Iterator[Library]:
    """Yield the libraries that one calls, directly or not, each once, and no run time's."""
    for called in library._linking_libraries:
        if isinstance(called, Library) and called not in seen:
            seen.add(called)
            yield called
            yield from _all_called(called, seen)


class Codegen(codegen.JITCPUCodegen):
    """What makes such libraries."""

    _library_class = Library

    def set_env(self, env_name: str, env: object) -> None:
        """Do nothing: compiled code needs nothing of Python."""


class Context(cpu.CPUContext):
    """How functions are lowered: as Numba does for the processor, to such libraries."""

    def init(self) -> None:
        """Replace what generates code."""
        super().init()
        self._internal_codegen = Codegen("edgellm")

    def load_additional_registries(self) -> None:
        """Load Numba's; its run time is for all, and compiled by its own target."""
        rtsys.initialize(cpu_target.target_context)
        super().load_additional_registries()


class Descriptor(CPUTarget):
    """The contexts of this target."""

    @cached_property
    def _toplevel_target_context(self) -> Context:
        return Context(self.typing_context, NAME)

    @cached_property
    def _toplevel_typing_context(self) -> TypingContext:
        return TypingContext()


class Dispatcher(CPUDispatcher):
    """A function that is compiled for this target."""

    targetdescr = Descriptor(NAME)


class Target(target_extension.CPU):
    """The name under which Numba finds all this."""


def declare(**options: bool | str) -> Callable[[Callable[..., Any]], Dispatcher]:
    """Return Numba's decorator of compiled functions, for this target."""
    return jit(_target=NAME, **options)


target_extension.target_registry[NAME] = Target
target_extension.dispatcher_registry[Target] = Dispatcher
target_extension.jit_registry[Target] = declare


def lower(function: Callable[..., None], options: dict[str, Any], arguments: int) -> Any:  # noqa: ANN401
    """Compile a function of so many int64.

    Returns:
        Its module, which has all that it calls, and its name there.
    """
    dispatcher = declare(**options)(function)
    dispatcher.compile((int64,) * arguments)
    (compiled,) = dispatcher.overloads.values()
    return compiled.library.linked(), compiled.fndesc.llvm_func_name
