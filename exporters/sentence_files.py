"""A sentence-transformers directory: how the rows of a text become one vector."""

from dataclasses import dataclass
from pathlib import Path

from edgellm.config import JsonFields, read_json_list
from edgellm.errors import CheckpointError, UnsupportedModelError

MODULES = "modules.json"
SETTINGS = "sentence_bert_config.json"
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
KINDS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceModules:
    """What follows the encoder.

    Attributes:
        pooling: ``mean`` or ``cls``.
        normalize: whether vectors get the length 1.
        max_seq_length: where texts are cut; None: at the model's last position.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_seq_length: int | None = None


def read_modules(path: Path) -> SentenceModules:
    """Read modules.json and the pooling's config; without them the mean of all rows is taken.

    Raises:
        CheckpointError: a file is damaged, or names a folder outside of the directory.
        UnsupportedModelError: a module or a pooling mode that is not supported.
    """
    limit = None
    if (path / SETTINGS).is_file():
        settings = JsonFields.read(path / SETTINGS)
        if settings.has("max_seq_length"):
            limit = settings.integer("max_seq_length")
    if not (path / MODULES).is_file():
        pooling = path / "1_Pooling"
        mode = _read_mode(pooling) if (pooling / "config.json").is_file() else "mean"
        return SentenceModules(mode, max_seq_length=limit)
    mode, normalize = "mean", False
    for entry in read_json_list(path / MODULES):
        fields = JsonFields(entry, str(path / MODULES))
        kind = fields.text("type").rpartition(".")[2]
        if kind not in KINDS:
            raise UnsupportedModelError(
                f"{path / MODULES}: the module {kind} is not supported; allowed are "
                f"{', '.join(KINDS)}"
            )
        if kind == "Pooling":
            mode = _read_mode(_folder(path, fields.text("path")))
        normalize = normalize or kind == "Normalize"
    return SentenceModules(mode, normalize, limit)


def _folder(path: Path, name: str) -> Path:
    if any(mark in name for mark in "/\\:\0") or name in ("", ".", ".."):
        raise CheckpointError(f"{path / MODULES}: the path {name!r} leads out of the checkpoint")
    return path / name


def _read_mode(folder: Path) -> str:
    fields = JsonFields.read(folder / "config.json")
    chosen = [
        name
        for name in fields.values
        if name.startswith("pooling_mode_") and fields.flag(name, default=False)
    ]
    if len(chosen) == 1 and chosen[0] in MODES:
        return MODES[chosen[0]]
    raise UnsupportedModelError(
        f"{fields.where}: the pooling {', '.join(chosen) or 'none'} is not supported; allowed is "
        f"one of {', '.join(MODES)}"
    )
