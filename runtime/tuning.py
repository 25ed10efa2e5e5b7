"""What the tuner found out on this machine, kept in a file beside the compiled kernels.

The file is for one processor and one version of edgellm. It may be damaged, or anybody's: it is
checked, and ignored if it is not as it should be. What it says changes times, never results.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.runtime import cpu
from edgellm.runtime.choices import Choices, kind_of
from edgellm.runtime.kernels import _objects, simd
from edgellm.runtime.plan import Plan

logger = logging.getLogger(__name__)

FORMAT = 2
SECTIONS = ("one", "many", "threads", "look_ups")
MAX_BYTES = 1 << 20
"""Of the file; a model adds about 1 KiB."""


@dataclass(frozen=True)
class Tuning:
    """What is known about a plan on this machine.

    Attributes:
        choices: variants of kernels; the best of the processor where nothing is known.
        threads: that decode fastest; None if not known.
    """

    choices: Choices = field(default_factory=Choices)
    threads: int | None = None


def recall_look_ups(plan: Plan) -> bool | None:
    """Return whether a plan, as its bundle has it, runs faster on weights for look-ups.

    None if that is not known; see ``layouts.for_this_machine``.
    """
    found = _read()["look_ups"].get(_identity(plan))
    return None if found is None else bool(found)


def remember_look_ups(plan: Plan, faster: bool) -> None:
    """Add what was found out about the weights of a plan, as its bundle has it, to the file."""
    content = _read()
    content["look_ups"][_identity(plan)] = int(faster)
    _write(content)


def recall(plan: Plan) -> Tuning:
    """Return what is known about a plan; nothing if the file is not there, or damaged."""
    content = _read()
    choices = Choices(one=content["one"], many=content["many"])
    return Tuning(choices, content["threads"].get(_identity(plan)))


def remember(plan: Plan, tuning: Tuning) -> Path:
    """Add what was found out about a plan to the file, and return its path.

    A file that cannot be written is warned about.
    """
    content = _read()
    content["one"].update(tuning.choices.one)
    content["many"].update(tuning.choices.many)
    if tuning.threads is not None:
        content["threads"][_identity(plan)] = tuning.threads
    return _write(content)


def _write(content: Mapping[str, Any]) -> Path:
    host = cpu.host()
    facts = {
        "format": FORMAT,
        "edgellm": version("edgellm"),
        "processor": f"{host.model} ({host.name})",
    }
    path = tuning_path()
    _objects.write_at_once(path, json.dumps({**facts, **content}, indent=1).encode())
    return path


def tuning_path() -> Path:
    """Return the file of this processor and this version of edgellm."""
    host = cpu.host()
    facts = [
        version("edgellm"),
        _objects.sources_digest(),
        host.machine,
        host.name,
        host.feature_string,
        host.model,
    ]
    facts += [str(host.logical_cores), str(host.physical_cores)]
    digest = hashlib.sha256("|".join(facts).encode()).hexdigest()
    return _objects.cache_directory() / f"tuning-{digest[:16]}.json"


def _identity(plan: Plan) -> str:
    """Return a name of the shape of a model."""
    counts = Counter(str(kind_of(plan, step)) for step in plan.steps)
    return hashlib.sha256(json.dumps(sorted(counts.items())).encode()).hexdigest()[:16]


def _read() -> dict[str, dict[str, Any]]:
    """Return the checked content of the file, empty if there is none."""
    path = tuning_path()
    empty: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    try:
        if not path.exists():
            return empty
        return _checked(path)
    except (ConfigError, OSError) as error:
        logger.warning("%s; it is ignored; edgellm tune replaces it", error)
        return empty


def _checked(path: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of the file.

    Raises:
        ConfigError: it is not what ``remember`` writes.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    fields = JsonFields.read(path, ConfigError)
    fields.integer("format", low=FORMAT, high=FORMAT)
    sections = {name: fields.section(name) for name in SECTIONS}
    content = {name: dict(section.values) for name, section in sections.items() if section}
    if len(content) != len(sections):
        raise ConfigError(f"{path}: needed are the objects {', '.join(sections)}")
    host = cpu.host()
    for call in ("one", "many"):
        _check_values(path, content[call], simd.available(host))
    _check_values(path, content["threads"], range(1, host.logical_cores + 1))
    _check_values(path, content["look_ups"], range(2))
    return content


def _check_values(path: Path, section: Mapping[str, Any], allowed: Any) -> None:  # noqa: ANN401
    for name, value in section.items():
        if type(value) not in (str, int) or value not in allowed:
            raise ConfigError(
                f"{path}: {name} is {value!r}; allowed are {', '.join(map(str, allowed))}"
            )
