"""Folders that a process works in: what one that was killed leaves behind is found and removed.

A process holds its folder by a lock, which the system drops when the process ends, however it ends.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

LOG = logging.getLogger(__name__)


class WorkFolder:
    """A new folder that nobody else takes for abandoned until ``remove``."""

    def __init__(self, parent: Path, prefix: str) -> None:
        """Make the folder, locked."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # just taken for abandoned, and about to be removed: make another
            except OSError:
                return  # a file system without locks: then nothing is ever removed, either
            else:
                if self.path.exists():
                    return
            os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(parent: Path, prefix: str, keep: str) -> None:
    """Remove folders of this user that no living process holds.

    Args:
        parent: where they are.
        prefix: of their names.
        keep: a folder with something of this name in it is only reported.
    """
    for folder in sorted(parent.glob(f"{prefix}*")):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # no folder, a link, of someone else, or gone by now
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder, keep)
        except OSError:  # somebody works in it, or there are no locks here
            continue
        finally:
            os.close(descriptor)


def _remove(folder: Path, keep: str) -> None:
    if (folder / keep).exists():
        LOG.warning(
            "%s: was being replaced when an export was killed; move it away, or remove it",
            folder / keep,
        )
        return
    shutil.rmtree(folder, ignore_errors=True)
    LOG.warning("%s: removed; it was left by an export that was killed", folder)
