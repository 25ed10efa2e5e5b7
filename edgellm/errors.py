"""The errors of edgellm: each says what is wrong, which value, what is allowed, what to do.

EdgeLLMError
+-- ConfigError            an option or argument is out of range
|   +-- NothingToReadError a text to calibrate on has no token
+-- CheckpointError        the source model is damaged or not what its config says
+-- UnsupportedModelError  the source model is sound, but nothing here can export it
+-- ExportError            the export cannot go on (output exists, value out of range, ...)
+-- BundleError            a bundle is damaged, hostile or newer than this reader
|   +-- ChecksumError      a file of the bundle is not the one that was exported
+-- PlanError              the graph of a bundle cannot be planned
+-- UnsupportedOpError     an operator is unknown or has no executor here
+-- UnknownNameError       a name is not in a registry
+-- ContextLengthError     the text does not fit in the context
+-- DeviceError            a device's description is wrong, or it cannot do what is asked
|   +-- DeadlockError      instructions wait for tokens that nobody releases
+-- VerificationError      two executors, or an executor and a golden case, disagree
+-- NotEnoughMemoryError   the machine has less memory than the bundle needs
+-- MissingDependencyError an optional package is not installed
"""


class EdgeLLMError(Exception):
    """Base of every error that edgellm raises on purpose."""

    exit_code = 1


class ConfigError(EdgeLLMError, ValueError):
    """An option or argument is out of range."""

    exit_code = 2


class NothingToReadError(ConfigError):
    """There is nothing to calibrate on."""

    def __init__(self) -> None:
        super().__init__(
            "the text to calibrate on has no token of this model; give another one, such as text "
            "that the model will read"
        )


class CheckpointError(EdgeLLMError):
    """The source model is damaged, hostile, or not what its config says."""


class UnsupportedModelError(EdgeLLMError):
    """The source model is sound, but no exporter here knows it."""

    exit_code = 3


class ExportError(EdgeLLMError):
    """The export cannot go on."""


class BundleError(EdgeLLMError):
    """A bundle is damaged, hostile, or newer than this reader."""


class ChecksumError(BundleError):
    """A file of a bundle is not the one that was exported."""

    exit_code = 4


class PlanError(EdgeLLMError):
    """The graph of a bundle cannot be planned."""


class UnsupportedOpError(EdgeLLMError):
    """An operator is unknown, or has no executor here."""


class UnknownNameError(EdgeLLMError, KeyError):
    """A name is not in a registry."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the message itself (KeyError would quote it)."""
        return str(self.args[0]) if self.args else ""


class ContextLengthError(EdgeLLMError, ValueError):
    """The text does not fit in the context of the bundle."""


class DeviceError(EdgeLLMError):
    """A simulated device is described wrongly, or cannot do what is asked of it."""


class DeadlockError(DeviceError):
    """Instructions of a simulated device wait for tokens that nobody releases."""


class VerificationError(EdgeLLMError):
    """Two executors, or an executor and a golden case, disagree."""

    exit_code = 4


class NotEnoughMemoryError(EdgeLLMError, MemoryError):
    """The machine has less memory than the bundle needs."""

    exit_code = 5


class MissingDependencyError(EdgeLLMError, ImportError):
    """An optional package is not installed."""
