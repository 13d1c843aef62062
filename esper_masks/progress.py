"""One live line of a terminal: what goes on, how far it is, and how long it will take."""

import os
from typing import TextIO

from rich.cells import set_cell_size


class Live:
    """A line that each text overwrites, never wider than the terminal. Whatever fails, nothing is shown, and no more.

    ``terminal`` says whether there is one; where it is False, nothing is written, and plain lines are the caller's.

    Args:
        stream: where to, such as ``sys.stderr``; None, as of a program without standard streams, is no terminal.
    """

    def __init__(self, stream: TextIO | None):
        self._stream, self._shown = stream, False
        self.terminal = stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def show(self, text: str) -> None:
        """Put a text in place of the one before; what does not fit is cut off."""
        self._shown = True
        self._write(set_cell_size(text, self._width() - 1).rstrip())  # in the last column a terminal may wrap

    def end(self) -> None:
        """Take the line away: what is printed next begins in its place."""
        if self._shown:
            self._shown = False
            self._write("")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        if not self.terminal or self._stream is None:
            return
        try:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone, which is no reason to end what goes on
            self.terminal = False


def how_far(done: float, total: float, seconds: float) -> str:
    """The part that is done and the time that is left at the speed so far, such as ``"42 %, 1:05 left"``.

    Args:
        done: of ``total``, in any unit, since the beginning of ``seconds``.
        total: not 0.
        seconds: that it took.
    """
    part = min(done / total, 1.0)
    percent = f"{int(100 * part)} %"  # 100 only where all is done
    return f"{percent}, {duration(seconds * (1 / part - 1))} left" if done > 0 else percent


def duration(seconds: float) -> str:
    """Such as ``"0:07"``, ``"12:30"``, ``"3:05:00"`` or ``"2 days 4:10:00"``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute}:{second:02}"
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}"
    return clock if not days else f"{days} day{'s' * (days > 1)} {clock}"
