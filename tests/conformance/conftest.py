"""Compile the kernels of the chosen tests first, on all cores: one by one takes minutes."""

import pytest

from edgellm.runtime import kernels
from edgellm.runtime.kernels._compiler import compile_missing


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(request: pytest.FixtureRequest) -> None:
    chosen = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = [spec.params for spec in chosen if spec is not None]
    wanted = {
        (each["module"].SCHEMA.name, each["variant"])
        for each in parameters
        if each.keys() >= {"module", "variant"}
    }
    compile_missing(kernels.find(*pair) for pair in sorted(wanted))
