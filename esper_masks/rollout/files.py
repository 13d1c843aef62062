"""Files that are whole or not there."""

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever reads it, after a crash too, finds the old content or all of the new one.

    Raises:
        OSError: the folder cannot be written to, or is full; what was there before is still there. Or the disk fails to
            confirm the new name, which may then be either.
    """
    place = Path(path)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, place)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(place.parent, os.O_RDONLY)  # the new name must reach the disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
