"""Signals that end a training after an update, with everything saved."""

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAID = "stopping after this update; again to quit without saving"


class Stopping:
    """A context in which SIGINT, SIGTERM and SIGHUP only ask for an end; a second one, whichever, is as without this.

    A signal that the process ignores, as under ``nohup``, is still ignored. Off the main thread nothing is caught.

    Attributes:
        caught: the signal that this process was sent, or 0.
        number: the one by which the training ended, of whichever process, or 0.

    Args:
        say: whether to say on standard error that it was understood.
    """

    def __init__(self, say: bool = False):
        self.say, self.caught, self.number = say, 0, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        here = threading.current_thread() is threading.main_thread()  # no other may have handlers
        for number in NUMBERS if here else ():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.__exit__()
        self.caught = number
        if self.say and sys.stderr is not None:
            # past Python's streams, in the middle of whose work this may be; a terminal shows ^C and the live line
            with suppress(OSError, ValueError):
                start = "\n" if sys.stderr.isatty() else ""
                os.write(sys.stderr.fileno(), f"{start}{SAID}\n".encode())
