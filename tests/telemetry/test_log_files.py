"""Files of logs: how far a large one is, and errors that name the file."""

import errno
import gzip
import io
import itertools
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from esper_masks.progress import Live
from esper_masks.telemetry import log_files
from esper_masks.telemetry.log_files import LogFiles
from tests.logs import germinate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_bytes(germinate())
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the live line while files are read."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(log_files, "monotonic", itertools.count().__next__)  # a second for each part that is read
    terminal = Terminal()
    logs = LogFiles([str(path) for path in paths], Live(terminal))
    for path in paths:
        with logs.open(str(path)) as stream:
            stream.read()
    assert terminal.getvalue().endswith("\r\x1b[K")  # gone before anything else is printed
    return [text for text in terminal.getvalue().split("\r\x1b[K") if text]


def test_a_large_log_tells_how_far_it_is(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log.write_bytes(b"0123456789" * 500_000)
    second = Path("second.jsonl")
    second.write_bytes(gzip.compress(os.urandom(5_000_000), 1))
    texts = told([Path(log.name), second], monkeypatch)
    percents = [int(text.split(" %")[0]) for text in texts]
    assert percents == sorted(percents)
    assert percents[0] in range(1, 10)
    assert percents[-1] == 100
    assert re.fullmatch(r"\d+ %, \d:\d\d left: run\.jsonl", texts[0])
    assert texts[-1] == "100 %, 0:00 left: second.jsonl"


def test_of_a_pipe_it_tells_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"0123456789" * 200_000))
    writer.start()
    texts = told([pipe], monkeypatch)
    writer.join(timeout=60)
    assert re.fullmatch(r"2 MB, \d:\d\d: .*", texts[-1])


def test_a_small_log_and_no_terminal_tell_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with LogFiles([str(log)], Live(terminal)).open(str(log)) as stream:
        assert stream.read() == log.read_bytes()
    assert terminal.getvalue() == ""


def test_an_error_of_reading_names_the_file(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", lambda *args: Failing())
    with pytest.raises(OSError, match="Input/output error") as caught, LogFiles([str(log)]).open(str(log)):
        pass
    assert caught.value.filename == str(log)
