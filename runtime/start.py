"""What is checked before a bundle runs: its task, threads, context length and memory."""

from functools import partial

from edgellm.bundle import Bundle, Manifest
from edgellm.errors import ConfigError, NotEnoughMemoryError
from edgellm.runtime import cpu
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.process_memory import available_memory_bytes
from edgellm.runtime.weights_memory import place_weights

TASK = "text-generation"
MAX_THREADS = 256
RESERVE_BYTES = 64 << 20
"""Free memory that must remain beside the key/value cache: working memory and pages of weights."""


def load_placed(bundle: Bundle, context_length: int) -> Plan:
    """Return a bundle's plan, with its weights where they are read fastest.

    Raises:
        BundleError: the bundle is damaged.
        ConfigError: it is for another task.
        NotEnoughMemoryError: the key/value cache does not fit in the free memory.
    """
    bundle.require_task(TASK)
    reserved = require_memory(bundle, context_length)
    return load_plan(bundle, partial(place_weights, reserved_bytes=reserved))


def checked_threads(threads: int | None) -> int:
    """Return the number of threads to use; None means one for each core of this process.

    Raises:
        ConfigError: out of range.
    """
    if threads is None:
        return cpu.host().physical_cores
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads is {threads!r}; allowed are 1 to {MAX_THREADS}")
    return threads


def checked_context(manifest: Manifest, context: int | None) -> int:
    """Return the context length to use; None means the bundle's own.

    Raises:
        ConfigError: out of range.
    """
    limit = manifest.context_length
    if context is None:
        return limit
    if isinstance(context, bool) or not isinstance(context, int) or not 1 <= context <= limit:
        raise ConfigError(
            f"context is {context!r}; this bundle allows 1 to {limit} "
            "(edgellm export --context sets the limit)"
        )
    return context


def require_memory(bundle: Bundle, context_length: int) -> int:
    """Check that cache and working memory fit, and return their bytes.

    The weights need none: where there is no room for a copy they are mapped, and can be paged out.

    Raises:
        NotEnoughMemoryError: they do not; the message has the numbers.
    """
    cache = bundle.manifest.cache_bytes_per_token * context_length
    needed, available = cache + RESERVE_BYTES, available_memory_bytes()
    if needed > available:
        raise NotEnoughMemoryError(
            f"{bundle.path}: needs {needed >> 20} MiB ({cache >> 20} MiB of them for the key/value "
            f"cache of {context_length} tokens), available are {available >> 20} MiB; "
            "use a smaller --context, or close other programs"
        )
    return needed
