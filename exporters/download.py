"""Find a checkpoint: a directory as it is, a name such as org/model by huggingface_hub."""

import re
from pathlib import Path

from edgellm.errors import CheckpointError, ConfigError, MissingDependencyError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"]
"""What an export reads; never code, never pickles."""


def is_hub_name(source: str) -> bool:
    """Tell whether a source that is no directory could be a name on the hub."""
    return not Path(source).is_dir() and HUB_NAME.fullmatch(source) is not None


def find_checkpoint(source: str, revision: str | None = None) -> Path:
    """Return the directory of a checkpoint, downloading it if it is a name.

    Raises:
        ConfigError: no such directory, or a revision of a directory.
        MissingDependencyError: downloading needs huggingface_hub.
        CheckpointError: the download failed.
    """
    path = Path(source)
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"{source} is a directory; a revision is for downloads only")
        return path
    if not is_hub_name(source):
        raise ConfigError(
            f"{source}: no such directory; give the directory of a checkpoint, "
            "or a name such as org/model to download it"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"{source}: no such directory, and to download it by that name huggingface_hub is "
            'needed: pip install "edgellm[hub]"; or download the files yourself and give their '
            "directory"
        ) from error
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError) as error:  # every error of huggingface_hub is one of them
        reason = " ".join(str(error).split())  # their messages have several lines
        raise CheckpointError(f"{source}: cannot be downloaded: {reason}") from error
