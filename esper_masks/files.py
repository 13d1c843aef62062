"""How files are written: a regular file is whole or not there, and whatever else a name leads to is written through."""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

NO_OTHER_FILE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)  # folders that take none, a file that is a mount


def write_file(path: str | os.PathLike[str], content: bytes, *, private: bool = False) -> None:
    """Write a file so that whoever reads it, after a crash too, finds the old content or all of the new one.

        regular file, or none      replaced at once; its mode stays, and its owner where the system permits
        link                       stays; what it leads to is written
        device, pipe               written through, like a regular file in a folder that takes no other file
        standard output and error  written behind what was printed before, by whichever name (/dev/stdout)

    Args:
        path: the file.
        content: of all of it.
        private: only its owner may read and write it, if it is a new file.

    Raises:
        OSError: it cannot be written, with ``path`` as its ``filename``; a regular file is as it was. Or the disk fails
            to confirm the new name, which may then be either. A ``BrokenPipeError`` of standard output has no name.
    """
    there = _stat(path)
    if there is not None and (standard := _standard_stream(there)) is not None:
        standard.flush()
        rest = memoryview(content)
        while rest:  # without a buffer, as by PYTHONUNBUFFERED, a write may take a part only
            rest = rest[standard.buffer.write(rest) :]
        standard.flush()
        return
    try:
        if there is None or stat.S_ISREG(there.st_mode):
            _replace(Path(os.path.realpath(path)), content, there, 0o600 if private else 0o666)
        else:
            Path(path).write_bytes(content)
    except OSError as error:  # of a part of the file, or of no name: the caller's name is wanted
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def check_output(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | int] = ()) -> None:
    """Find out before the work whether ``write_file`` can write a file. Nothing is written.

    Args:
        path: the file.
        inputs: paths, or descriptors, of files that are read; none of them may be written, by whichever name.

    Raises:
        OSError: the file is a folder or an input, its folder is not there, or permission is denied.
    """
    name, there = os.fspath(path), _stat(path)
    if there is None:
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "its folder is not there; make it, or name another file", name)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "its folder takes no new file: permission denied", name)
        return
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", name)
    if not os.access(path, os.W_OK) and _standard_stream(there) is None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    if stat.S_ISREG(there.st_mode) or stat.S_ISBLK(there.st_mode):
        for source in inputs:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # whoever reads it says that
                if os.path.samestat(there, os.stat(source)):
                    raise FileExistsError(errno.EEXIST, "is one of the inputs; name another file", name)


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to standard output."""
    there = _stat(path)
    return there is not None and _standard_stream(there) is sys.__stdout__ is not None


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _standard_stream(there: os.stat_result) -> TextIO | None:
    """Standard output or error, where a file is one of them: opening it again would begin at its first byte."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):  # closed since
            if stream is not None and os.path.samestat(there, os.fstat(stream.fileno())):
                return stream
    return None


def _replace(place: Path, content: bytes, there: os.stat_result | None, mode: int) -> None:
    if there is not None and not os.access(place, os.W_OK):  # a new name would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    part = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            if there is not None:
                _keep_owner_and_mode(stream.fileno(), there)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, place)
    except BaseException as error:
        with suppress(OSError):  # it may not be there
            part.unlink()
        if there is None or not isinstance(error, OSError) or error.errno not in NO_OTHER_FILE:
            raise
        place.write_bytes(content)
        return
    folder = os.open(place.parent, os.O_RDONLY)  # the new name must reach the disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner_and_mode(descriptor: int, there: os.stat_result) -> None:
    for owner, group in ((there.st_uid, -1), (-1, there.st_gid)):
        with suppress(PermissionError):  # who is not root may give a file to groups of their own only
            os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))
