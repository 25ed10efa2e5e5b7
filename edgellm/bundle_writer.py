"""Write a bundle: all of it comes to be at its destination in one step, or nothing."""

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgellm.bundle import MANIFEST, Bundle, FileEntry, Manifest, open_bundle, sha256_of
from edgellm.errors import ExportError
from edgellm.work_folders import WorkFolder, remove_abandoned

WORK_PREFIX = ".edgellm-export-"
OLD = "old"
"""In a folder that an export works in: the bundle that it replaces, until the new one is there."""


class BundleWriter:
    """Write a bundle into a temporary directory beside its destination, then rename it.

    A context manager: on an exception nothing stays behind; ``finish`` puts the bundle in place.
    """

    def __init__(self, destination: str | os.PathLike[str], *, force: bool = False) -> None:
        """Make the temporary directory.

        Args:
            destination: where the bundle is to be.
            force: replace a bundle that is there.

        Raises:
            ExportError: something is there that is not to be replaced.
        """
        self.destination = Path(destination)
        self._force = force
        if self.destination.is_symlink():
            raise ExportError(f"{self.destination} is a link; give the directory itself")
        if self.destination.exists() and not force:
            raise ExportError(f"{self.destination} exists; choose another output or pass --force")
        if self.destination.exists() and not (self.destination / MANIFEST).is_file():
            raise ExportError(f"{self.destination} exists and is no bundle; it is not replaced")
        parent = self.destination.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(parent, WORK_PREFIX, keep=OLD)
            self._folder = WorkFolder(parent, WORK_PREFIX)
        except OSError as error:
            raise ExportError(
                f"{self.destination}: nothing can be written to {parent}: {error.strerror}"
            ) from error
        self.path = self._folder.path / "bundle"
        self.path.mkdir()

    def __enter__(self) -> "BundleWriter":
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not finished.

        Raises:
            ExportError: instead of an error that tells that the disk is full.
        """
        self._folder.remove()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(
                f"{self.destination}: {error.strerror}; free some, or choose another output"
            ) from error

    def open(self, name: str) -> BinaryIO:
        """Create the file ``name`` for writing; its folder is made if needed."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("wb")

    def write_manifest(self, manifest: Manifest) -> None:
        """Hash all files written so far and write the manifest that lists them."""
        entries = {}
        for file in sorted(self.path.rglob("*")):
            name = file.relative_to(self.path).as_posix()
            if file.is_file() and name != MANIFEST:
                entries[name] = asdict(FileEntry(file.stat().st_size, sha256_of(file)))
        content = {**asdict(manifest), "files": entries}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (self.path / MANIFEST).write_text(text, encoding="utf-8")

    def finish(self) -> Bundle:
        """Move the bundle to its destination, replacing an old one if forced, and open it.

        Raises:
            ExportError: something came to be there since the export began.
        """
        old = self._folder.path / OLD
        try:
            if self._force and self.destination.exists():
                os.replace(self.destination, old)
            if self.destination.exists():  # an empty directory would be replaced silently
                raise ExportError(f"{self.destination}: appeared during the export; it is kept")
            os.replace(self.path, self.destination)
        except OSError as error:
            raise ExportError(
                f"{self.destination}: the bundle cannot be put there: {error.strerror}"
            ) from error
        finally:
            if old.exists() and not self.destination.exists():
                os.replace(old, self.destination)
        return open_bundle(self.destination)
