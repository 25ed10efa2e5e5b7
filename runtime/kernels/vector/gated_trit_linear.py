"""GatedTritLinear on a vector unit."""

from collections.abc import Callable

from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._gated_rows import gated_kernel
from edgellm.runtime.kernels.vector._operations import trits
from edgellm.runtime.kernels.vector._panels import signed_trit_panels
from edgellm.runtime.kernels.vector._products import vector_trit_product


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    return gated_kernel(trits(unit), vector_trit_product(unit), signed_trit_panels)
