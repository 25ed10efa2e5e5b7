"""The bundle on disk: manifest, graph, weights, checksums; read and checked here alone.

    manifest.json          format version, task, sizes, provenance, sha256 of each file
    model.onnx             graph and function bodies; weights are external
    weights.bin            the weights, 64-byte aligned, mapped and never copied
    tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja
    preprocessor_config.json, labels.json    of image classifiers
    golden/                inputs, expected integer outputs, checksums per layer
    README.md              model card

A bundle comes from strangers: every path, size and count is checked before use.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from edgellm.cache_layout import CACHE_LAYOUTS
from edgellm.errors import BundleError, ChecksumError, ConfigError

FORMAT = "edgellm-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "weights.bin"
MAX_MANIFEST_BYTES = 1 << 24
MAX_NAME_BYTES = 255
CHUNK_BYTES = 1 << 22

RANGES = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 24),
    "num_hidden_layers": (1, 1 << 12),
    "num_attention_heads": (1, 1 << 24),
    "num_key_value_heads": (1, 1 << 24),
    "head_dim": (1, 1 << 24),
    "state_size": (0, 1 << 24),
    "context_length": (1, 1 << 24),
    "logits_frame": (0, 31),
    "num_parameters": (0, 1 << 53),
    "bits_per_weight": (0, 1024),
    "num_labels": (0, 1 << 24),
    "image_height": (0, 1 << 14),
    "image_width": (0, 1 << 14),
    "num_channels": (0, 64),
    "patch_height": (0, 1 << 14),
    "patch_width": (0, 1 << 14),
}
"""What the numbers of a manifest may be; what a runtime can hold is checked when it loads."""
IN_WORDS: Mapping[object, str] = {
    str: "a text",
    float: "a number",
    int: "an integer",
    int | None: "an integer",
}


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says about one file."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of a bundle. Fields of the model are named as in config.json.

    ``kv_bits`` are those of a number of the key/value cache.
    ``state_size`` is the width of a layer's recurrent state, 0 for models with a key/value cache.
    ``calibration`` names the text that the offsets of the keys were measured on; without a name
    the keys have none. ``smoothing`` says which channels were scaled at export, and what that
    gained, ``task`` says what goes in and out; a classifier of images has no
    vocabulary, an encoder's ``logits_frame`` is the fixed point of its output.
    """

    task: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    logits_frame: int
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    num_parameters: int = 0
    bits_per_weight: float = 0.0
    quantization: str = ""
    layout: str = ""
    source: str = ""
    revision: str = ""
    licence: str = ""
    calibration: str = ""
    smoothing: str = ""
    kv_bits: int = 8
    state_size: int = 0
    arithmetic: str = ""
    num_labels: int = 0
    image_height: int = 0
    image_width: int = 0
    num_channels: int = 0
    patch_height: int = 0
    patch_width: int = 0
    created_by: str = ""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of key/value cache that one token takes: codes and an int32 absmax a head."""
        if self.state_size:
            return 0
        head = CACHE_LAYOUTS[self.kv_bits].row_bytes(self.head_dim) + 4
        return self.num_hidden_layers * self.num_key_value_heads * 2 * head

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent states of one text, int64 by channel, however long it is."""
        return 8 * self.num_hidden_layers * self.state_size


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest has been read and every listed file is there in its size."""

    path: Path
    manifest: Manifest

    @property
    def graph_path(self) -> Path:
        """The ONNX file."""
        return self.path / GRAPH

    @property
    def weights_path(self) -> Path:
        """The weights."""
        return self.path / WEIGHTS

    def file(self, name: str) -> Path | None:
        """Return the path of a listed file, or None if the bundle has no such file."""
        return self.path / name if name in self.manifest.files else None

    def require_task(self, task: str) -> None:
        """Check what the bundle is for.

        Raises:
            ConfigError: it is for another task.
        """
        if self.manifest.task != task:
            raise ConfigError(f"{self.path}: is for {self.manifest.task}, not for {task}")

    def verify_checksums(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Hash every listed file.

        Args:
            progress: called with the bytes of each chunk that was hashed.

        Raises:
            ChecksumError: a file differs from the manifest; the message names it.
        """
        for name, entry in self.manifest.files.items():
            digest = sha256_of(self.path / name, progress)
            if digest != entry.sha256:
                raise ChecksumError(
                    f"{self.path / name}: sha256 is {digest}, the manifest says {entry.sha256}; "
                    "the file was changed or damaged after the export: copy or export it again"
                )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle's manifest, and that each file is present in its size.

    Raises:
        BundleError: no bundle, a newer format, a hostile path, a missing or truncated file.
    """
    root = Path(path)
    manifest = _parse_manifest(root / MANIFEST)
    for name, entry in manifest.files.items():
        _check_name(name, root / MANIFEST)
        target = root / name
        if not target.is_file():
            raise BundleError(f"{target}: listed in the manifest but not in the bundle")
        if not target.resolve().is_relative_to(root.resolve()):
            raise BundleError(f"{target}: is a link that leads out of the bundle; copy the files")
        size = target.stat().st_size
        if size != entry.size:
            raise BundleError(
                f"{target}: {size} bytes, the manifest says {entry.size}; the file is truncated or "
                "was changed: copy or export the bundle again"
            )
    for name in (GRAPH, WEIGHTS):
        if name not in manifest.files:
            raise BundleError(f"{root / MANIFEST}: lists no {name}")
    return Bundle(root, manifest)


def _parse_manifest(path: Path) -> Manifest:
    if not path.is_file():
        is_checkpoint = (path.parent / "config.json").is_file()
        raise BundleError(
            f"{path.parent}: {'is a checkpoint' if is_checkpoint else 'no bundle here'} (no "
            f"{MANIFEST}); make a bundle with: edgellm export CHECKPOINT -o BUNDLE"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{path}: format is not {FORMAT!r}")
    version = raw.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise BundleError(
            f"{path}: format version {version!r}; this edgellm reads 1 to {FORMAT_VERSION}: "
            "install a newer edgellm"
        )
    return _build_manifest(raw, path)


def _build_manifest(raw: Mapping[str, Any], path: Path) -> Manifest:
    """Make a Manifest of known keys, each of its declared type; unknown keys are left out."""
    values: dict[str, Any] = {}
    for item in fields(Manifest):
        if item.name not in raw:
            continue
        values[item.name] = _convert(item.name, item.type, raw[item.name], path)
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise BundleError(f"{path}: {error}") from error
    for name, (least, high) in RANGES.items():
        low = 0 if name == "vocab_size" and manifest.num_labels else least
        value = getattr(manifest, name)
        if not low <= value <= high:
            raise BundleError(f"{path}: {name} is {value}; allowed are {low} to {high}")
    if manifest.kv_bits not in CACHE_LAYOUTS:
        raise BundleError(f"{path}: kv_bits is {manifest.kv_bits}; allowed are 8 and 4")
    for token in (manifest.bos_token_id, *manifest.eos_token_ids):
        if token is not None and not 0 <= token < manifest.vocab_size:
            raise BundleError(
                f"{path}: the special token {token} is not one of the {manifest.vocab_size} tokens"
            )
    return manifest


def _convert(name: str, kind: object, value: object, path: Path) -> object:
    if name == "files":
        return _convert_files(value, path)
    if name == "eos_token_ids":
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
    elif (
        type(value) is kind
        or (kind is float and type(value) is int)
        or (kind == int | None and (value is None or type(value) is int))
    ):
        return value
    raise BundleError(
        f"{path}: {name} is {value!r}; {IN_WORDS.get(kind, 'a list of integers')} is needed"
    )


def _convert_files(value: object, path: Path) -> dict[str, FileEntry]:
    if not isinstance(value, dict):
        raise BundleError(f"{path}: files is no object")
    entries = {}
    for name, entry in value.items():
        size = entry.get("size") if isinstance(entry, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64:
            raise BundleError(f"{path}: files[{name!r}] needs a size and a sha256")
        entries[name] = FileEntry(size, digest)
    return entries


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name)
    if len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES:
        raise BundleError(f"{path}: a file name is longer than {MAX_NAME_BYTES} bytes")
    if not name or parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name:
        raise BundleError(f"{path}: the file name {name!r} leads out of the bundle")


def sha256_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> str:
    """Return the checksum of a file; ``progress`` is called with the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()
