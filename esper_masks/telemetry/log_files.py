"""Logs as files: by name or from standard input, plain or compressed, with a live line while a large one is read."""

import errno
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import Any, BinaryIO

from esper_masks.progress import Live, duration, how_far
from esper_masks.telemetry.events import clean

LOG_HELP = "a log, one JSON object a line, plain or compressed by gzip; - is standard input"
STDIN = "-"
GZIP = b"\x1f\x8b"  # what every such file begins with
CHUNK = 1 << 18  # bytes that are read at once
QUIET_S, EVERY_S = 1.0, 0.2  # what is read sooner needs no live line; time between two of its texts


class LogFiles:
    """Logs that are read one after another. ``repeated`` names logs that are given twice, each with its first name.

        with logs.open(path) as stream:
            reader.read(stream, path)

    Args:
        paths: files; ``-`` is standard input. A file is read as gzip if its first bytes say so, whatever its name.
        live: a line that shows how much has been read; by default on standard error.

    Raises:
        OSError: a path is missing, a folder, or not readable; raised before any file is read.
    """

    def __init__(self, paths: Sequence[str], live: Live | None = None):
        self._live = Live(sys.stderr) if live is None else live
        found = [_stat(path) for path in paths]
        sizes = [one.st_size for one in found if stat.S_ISREG(one.st_mode)]
        self._total = sum(sizes) if len(sizes) == len(paths) else 0  # of a pipe nobody knows
        first = [next(at for at, other in enumerate(found) if os.path.samestat(one, other)) for one in found]
        self.repeated = [(path, paths[first[at]]) for at, path in enumerate(paths) if first[at] < at]
        self._done, self._begun, self._shown = 0, monotonic(), 0.0

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """A log as a stream of bytes, decompressed.

        Raises:
            OSError: here, or in the block: the file cannot be read, or is damaged; with ``path`` as its ``filename``.
        """
        name = "standard input" if path == STDIN else path
        try:
            with nullcontext(_raw_stdin()) if path == STDIN else open(path, "rb", 0) as raw:
                watched = io.BufferedReader(_Watched(raw, lambda size: self._note(size, name)), CHUNK)
                yield gzip.GzipFile(fileobj=watched) if watched.peek(2)[:2] == GZIP else watched  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(errno.EIO, f"its compressed data is damaged or cut off ({error})", name) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or name) from None
        finally:
            self._live.end()

    def _note(self, size: int, name: str) -> None:
        self._done += size
        now = monotonic()
        if not self._live.terminal or now - self._begun < QUIET_S or now - self._shown < EVERY_S:
            return
        self._shown, took = now, now - self._begun
        far = how_far(self._done, self._total, took) if self._total else f"{self._done / 1e6:,.0f} MB, {duration(took)}"
        self._live.show(f"{far}: {clean(name, 4096)}")


def open_logs(paths: Sequence[str], command: str) -> LogFiles:
    """The logs of a command, which says so where one file is given twice.

    Raises:
        OSError: see ``LogFiles``.
    """
    logs = LogFiles(paths)
    for again, first in logs.repeated:
        same = "given twice" if again == first else f"the same file as {clean(first, 4096)}"
        print(f"esper-masks {command}: {clean(again, 4096)} is {same}; what it holds counts twice", file=sys.stderr)
    return logs


class _Watched(io.RawIOBase):
    """A stream that reports how much was read from it."""

    def __init__(self, raw: Any, note: Callable[[int], None]):
        self._raw, self._note = raw, note

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size: int | None = self._raw.readinto(buffer)
        self._note(size or 0)
        return size


def _raw_stdin() -> Any:
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


def _stat(path: str) -> os.stat_result:
    if path == STDIN:
        try:
            return os.fstat(sys.stdin.fileno())
        except (AttributeError, OSError, ValueError):  # None, where a program was started without
            raise OSError(errno.EBADF, "is closed", "standard input") from None
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return found
