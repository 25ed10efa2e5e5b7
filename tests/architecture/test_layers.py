"""The import directions of ARCHITECTURE.md: a layer imports the layers below it only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lowest first. A module belongs to the longest prefix that fits.
RANKS = {
    "edgellm.errors": 0,
    "edgellm.int4": 0,
    "edgellm.row_codes": 0,
    "edgellm.trellis_codes": 0,
    "edgellm.work_folders": 0,
    "edgellm.device": 1,
    "edgellm.cache_layout": 1,
    "edgellm.graph_names": 1,
    "edgellm.registry": 1,
    "edgellm.dtypes": 1,
    "edgellm.ternary_planes": 1,
    "edgellm.ternary_layouts": 2,
    "edgellm.config": 2,
    "edgellm.ops": 2,
    "edgellm.bundle": 3,
    "edgellm.image_processor": 3,
    "edgellm.bundle_writer": 4,
    "edgellm.exporters": 5,
    "edgellm.runtime": 5,
    "edgellm.devices": 5,
    "edgellm": 6,
    "edgellm.api": 6,
    "edgellm.commands": 7,
    "edgellm.cli": 8,
    "edgellm.__main__": 9,
}
SIBLINGS = {"edgellm.exporters", "edgellm.runtime", "edgellm.devices"}
# Third-party packages that only some folders may import, wherever the import stands.
FENCED = {
    # A search through 4,096 states for each weight is no work for NumPy.
    "numba": ("runtime/", "exporters/quantizers/trellis_search.py"),
    "llvmlite": ("runtime/",),
    "safetensors": ("runtime/session_file.py",),
    "torch": (),
    "transformers": (),
}


def sources() -> list[Path]:
    folders = ("edgellm", "exporters", "runtime", "devices")
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "edgellm" else ("edgellm", *parts))


def layer(module: str) -> str:
    fits = [name for name in RANKS if module == name or module.startswith(name + ".")]
    return max(fits, key=len)


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # `from edgellm import ops` imports edgellm.ops, not what edgellm composes.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found += whole if node.module == "edgellm" else [node.module or ""]
    return found


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_a_module_imports_only_layers_below_it(file: Path) -> None:
    mine = layer(module_name(file))
    for name in imports(file):
        if name.split(".")[0] != "edgellm":
            continue
        theirs = layer(name)
        if theirs == mine or (theirs in RANKS and theirs == "edgellm" and mine == "edgellm.api"):
            continue
        assert not {mine, theirs} <= SIBLINGS, f"{file}: {mine} imports its sibling {theirs}"
        assert RANKS[theirs] < RANKS[mine] or mine == "edgellm", f"{file}: imports {name}"


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_heavy_packages_stay_in_their_folders(file: Path) -> None:
    place = file.relative_to(ROOT).as_posix()
    for name in imports(file):
        allowed = FENCED.get(name.split(".")[0])
        assert allowed is None or place.startswith(allowed), f"{place} imports {name}"


def test_onnxruntime_is_imported_by_its_executor_and_for_float_models_only() -> None:
    users = {
        file.relative_to(ROOT).as_posix()
        for file in sources()
        if any(name.split(".")[0] == "onnxruntime" for name in imports(file))
    }

    assert users <= {
        "runtime/executors/onnxruntime.py",
        "runtime/float_parts.py",
        "runtime/float_scorer.py",
    }
