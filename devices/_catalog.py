"""Find devices by file name: ``<name>.toml`` describes one, ``<model>.py`` holds its Device."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edgellm import devices, registry
from edgellm.device import Device
from edgellm.devices._description import Description, read_description
from edgellm.errors import DeviceError, UnknownNameError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all devices that come with edgellm."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def describe(name: str, changes: Sequence[str] = ()) -> Description:
    """Return the description of a device.

    Args:
        name: of a device that comes with edgellm, or a path that ends in ".toml".
        changes: see ``read_description``.

    Raises:
        UnknownNameError: there is none of that name; the message lists the nearest.
        DeviceError: the description is wrong.
    """
    if name.endswith(".toml"):
        return read_description(Path(name), changes)
    known = names()
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=3) or known
        raise UnknownNameError(f"no device {name!r}; nearest: {', '.join(near)}")
    return read_description(FOLDER / f"{name}.toml", changes)


def load(name: str, changes: Sequence[str] = ()) -> Device:
    """Return a device, ready to be asked; arguments and errors are those of ``describe``."""
    return make(describe(name, changes))


def make(description: Description) -> Device:
    """Return the device of a description.

    Raises:
        UnknownNameError: no file in ``devices/`` has the name of its model.
        DeviceError: its parameters are not those that its Device declares.
    """
    module = registry.load(devices, description.device.model)
    _check_parameters(description, module)
    device: Device = module.Device(description)
    return device


def _check_parameters(description: Description, module: ModuleType) -> None:
    """Check ``[parameters]`` against the PARAMETERS of a device's file: name to (low, high)."""
    declared: dict[str, tuple[float, float]] = getattr(module, "PARAMETERS", {})
    given = description.parameters
    if set(given) != set(declared):
        missing = ", ".join(sorted(set(declared) - set(given))) or "none"
        unknown = ", ".join(sorted(set(given) - set(declared))) or "none"
        raise DeviceError(f"{description.name}: parameters: missing: {missing}; unknown: {unknown}")
    for key, (low, high) in declared.items():
        if not low <= given[key] <= high:
            raise DeviceError(
                f"{description.name}: parameters.{key} is {given[key]:g}; allowed are numbers "
                f"from {low:g} to {high:g}"
            )
