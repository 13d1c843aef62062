"""One training a log folder."""

import errno
import fcntl
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

LOCK = ".lock"
_held: set[int] = set()  # descriptors of locks of this process


class FolderLock:
    """A log folder that one process at a time writes to, by ``flock``, which ends with the process however that ends.

    As a context manager it gives the folder back at the end.

    Args:
        folder: which; it is made if it is not there.
    """

    def __init__(self, folder: Path):
        self._folder, self._descriptor = folder, -1

    def take(self) -> None:
        """Hold the folder from here on; nothing if it is held already.

        A file system without ``flock`` is told of on standard error, and nothing is locked.

        Raises:
            BlockingIOError: another process holds it.
            OSError: it cannot be made or written to.
        """
        if self._descriptor >= 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)  # not inherited
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 200).decode(errors="replace").strip() or "by which process is not known"
            self.give_back()
            reason = f"another training is at work there ({holder}); end it first, or name another folder (--logdir)"
            raise BlockingIOError(errno.EWOULDBLOCK, reason, str(self._folder)) from None
        except OSError as error:
            reason = f"cannot be locked ({error.strerror}), so nothing keeps a second training out of this folder"
            print(f"{self._folder}: {reason}", file=sys.stderr)
        _held.add(self._descriptor)
        with suppress(OSError):  # only who looks at it misses something
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

    def give_back(self) -> None:
        """Let others have the folder; the file of the lock stays, since another process may have opened it already."""
        if self._descriptor >= 0:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.give_back()


def _let_go() -> None:
    """In a child that was forked: it shares the lock, and would hold it for longer than its parent lives."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
