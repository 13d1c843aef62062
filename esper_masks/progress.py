"""One live line of a terminal: what a command does, how far it is, and how long it will take."""

import os
from typing import TextIO

from rich.cells import cell_len, set_cell_size


class Live:
    """A line that each text overwrites, never wider than the terminal. After a failure nothing more is shown.

    ``terminal`` says whether there is a terminal. If it is False, nothing is written, and plain lines are up to the
    caller.

    Args:
        stream: such as ``sys.stderr``; None, as in a program without standard streams, is no terminal.
    """

    def __init__(self, stream: TextIO | None):
        self._stream, self._shown = stream, False
        self.terminal = stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def show(self, text: str) -> None:
        """Put a text in place of the text before. If a text does not fit, its end is left out, from two spaces on."""
        self._shown, width = True, self._width() - 1  # in the last column a terminal may wrap
        shown = set_cell_size(text, width)
        if cell_len(text) > width:  # half a number would be another one
            shown = shown.rsplit("  ", 1)[0]
        self._write(shown.rstrip())

    def end(self) -> None:
        """Take the line away: the next line that is printed begins in its place."""
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
        except (OSError, ValueError):  # the terminal is gone, which is no reason to end the command
            self.terminal = False


def how_far(done: float, total: float, seconds: float, before: float = 0) -> str:
    """How much is done and how much time is left at the speed so far, such as ``"42 %, 1:05 left"``.

    Args:
        done: of ``total``, in any unit.
        total: not 0.
        seconds: time since ``before``.
        before: what was done at first, as when a training is resumed.
    """
    percent = f"{int(100 * min(done / total, 1.0))} %"  # 100 only where all is done
    left = max(total - done, 0) * seconds
    return f"{percent}, {duration(left / (done - before))} left" if done > before else percent


def duration(seconds: float) -> str:
    """Such as ``"0:07"``, ``"12:30"``, ``"3:05:00"`` or ``"2 days 4:10:00"``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute}:{second:02}"
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}"
    return clock if not days else f"{days} day{'s' * (days > 1)} {clock}"
