"""What all opened bundles have in common: their facts, an engine, and an end."""

from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from edgellm.bundle import Bundle, Manifest


class Closable(Protocol):
    """What has something to release."""

    def close(self) -> None:
        """Release it; a second call does nothing."""


AnyEngine = TypeVar("AnyEngine", bound=Closable)


class Loaded(Generic[AnyEngine]):
    """A bundle that is ready to run. Use it in a ``with`` block, or ``close`` it."""

    _bundle: Bundle
    _engine: AnyEngine

    @property
    def info(self) -> Manifest:
        """The facts of the bundle."""
        return self._bundle.manifest

    @property
    def engine(self) -> AnyEngine:
        """What computes."""
        return self._engine

    def close(self) -> None:
        """End the worker threads; the model cannot be used afterwards."""
        self._engine.close()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()
