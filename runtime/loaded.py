"""What all opened bundles have in common: their facts, an engine, and an end."""

from types import TracebackType
from typing import Generic, NoReturn, Protocol, Self, TypeVar

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

    def __repr__(self) -> str:
        """Say which bundle it is."""
        facts = self.info
        return f"<{type(self).__name__} {self._bundle.path}: {facts.task}, {facts.model_type}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or sent to another process.

        Raises:
            TypeError: always, as all that cannot be pickled.
        """
        raise TypeError(
            f"a {type(self).__name__} has threads and mapped weights and cannot be pickled or "
            "copied; load the bundle again where it is needed"
        )

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
