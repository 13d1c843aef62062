"""What to install where a library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(module: str) -> Iterator[None]:
    """Around the import of a library that an extra of this package brings.

    Args:
        module: what needs it, below ``esper_masks``; the last part of the name is that of the extra.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra, library = module.rpartition(".")[-1], str(error.name).partition(".")[0]
        reason = f"esper_masks.{module} needs {library}: pip install 'esper-masks[{extra}]'"
        raise ImportError(reason, name=error.name) from error
