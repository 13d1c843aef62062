"""What to install where a library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(module: str) -> Iterator[None]:
    """A context for the import of a library that an extra of this package installs.

    Args:
        module: which module needs the library, without ``esper_masks.``; its last part is the name of the extra.

    Raises:
        ImportError: the library is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra, library = module.rpartition(".")[-1], str(error.name).partition(".")[0]
        reason = f"esper_masks.{module} needs {library}: pip install 'esper-masks[{extra}]'"
        raise ImportError(reason, name=error.name) from error
