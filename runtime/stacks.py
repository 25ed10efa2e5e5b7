"""How much stack the calling thread has: kernels keep scratch memory there.

Python starts threads with what the system chooses: 8 MiB with glibc, 1 MiB on Android and musl.
"""

import ctypes
import threading

NEEDED_BYTES = 7 << 20
"""Room for the largest frame, Attention's of 5.4 MiB, in the 8 MiB that a main thread has."""
ATTRIBUTES_BYTES = 256
"""More than a pthread_attr_t: 64 bytes at most with glibc, musl and Bionic."""

_of_thread = threading.local()


def is_large() -> bool:
    """Tell whether kernels may run on the calling thread's stack; False where that is unknown."""
    try:
        known: bool = _of_thread.is_large
    except AttributeError:
        known = _of_thread.is_large = stack_bytes() >= NEEDED_BYTES
    return known


def stack_bytes() -> int:
    """Return the size of the calling thread's stack, 0 if the system does not say."""
    system = ctypes.CDLL(None)
    try:
        own = system.pthread_self
        own.restype = ctypes.c_void_p
        if hasattr(system, "pthread_get_stacksize_np"):  # macOS
            of_thread = system.pthread_get_stacksize_np
            of_thread.argtypes, of_thread.restype = [ctypes.c_void_p], ctypes.c_size_t
            return int(of_thread(own()))
        return _size_from_attributes(system, own())
    except AttributeError:  # a system without one of these functions
        return 0


def _size_from_attributes(system: ctypes.CDLL, thread: int) -> int:
    """Ask pthread_getattr_np, of Linux and Android."""
    attributes = ctypes.create_string_buffer(ATTRIBUTES_BYTES)
    if system.pthread_getattr_np(ctypes.c_void_p(thread), attributes) != 0:
        return 0
    lowest, size = ctypes.c_void_p(), ctypes.c_size_t()
    failed = system.pthread_attr_getstack(attributes, ctypes.byref(lowest), ctypes.byref(size))
    system.pthread_attr_destroy(attributes)
    return 0 if failed else size.value
