"""The live line: it fits, it is overwritten, and it never ends what it tells of."""

import io
import os
import pty
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from esper_masks.progress import Live, duration, how_far


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_text_takes_the_place_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    live = Live(terminal)
    live.end()
    assert terminal.getvalue() == ""  # nothing to take away
    live.show("one")
    live.show("two")
    live.end()
    live.end()
    assert terminal.getvalue() == "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[K"


@pytest.mark.parametrize(("columns", "shown"), [(80, 79), (40, 39), (20, 19), (0, 79)])
def test_it_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, shown: int) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, its = pty.openpty()
    try:
        ioctl(its, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(its, "w", encoding="utf-8", closefd=False) as stream:
            live = Live(stream)
            live.show("0123456789" * 30)
            assert os.read(ours, 4096).decode() == "\r\x1b[K" + ("0123456789" * 30)[:shown]
            live.show("whole 1.5  " * 30)  # parts are shown whole
            assert os.read(ours, 4096).decode() == "\r\x1b[K" + "  ".join(["whole 1.5"] * (shown // 11))
            live.show("日本" * 100)  # characters of two columns
            assert os.read(ours, 4096).decode() == "\r\x1b[K" + ("日本" * 100)[: shown // 2]
    finally:
        os.close(its)
        os.close(ours)


def test_where_there_is_no_terminal_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for stream in (io.StringIO(), Terminal(), None):
        live = Live(stream)
        live.show("some")
        live.end()
        assert not live.terminal
        assert stream is None or stream.getvalue() == ""


@pytest.mark.parametrize("closed", [True, False])
def test_a_terminal_that_goes_away_ends_nothing(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if closed else Gone()
    live = Live(stream)
    if closed:
        stream.close()
    live.show("some")
    assert not live.terminal
    live.end()


def test_what_is_left_is_told() -> None:
    assert how_far(0, 10, 3.0) == "0 %"
    assert how_far(5, 10, 3.0) == "50 %, 0:03 left"
    assert how_far(999, 1000, 999.0) == "99 %, 0:01 left"
    assert how_far(12, 10, 3.0) == "100 %, 0:00 left"  # the last step may go beyond
    assert how_far(50, 100, 10.0, 40) == "50 %, 0:50 left"  # gone on with from 40
    assert how_far(40, 100, 0.0, 40) == "40 %"
    assert how_far(1, 101, 60.0) == "0 %, 1:40:00 left"
    assert [duration(s) for s in (0.4, 59.6, 3600, 86399, 86400, 190000)] == [
        "0:00",
        "1:00",
        "1:00:00",
        "23:59:59",
        "1 day 0:00:00",
        "2 days 4:46:40",
    ]
