"""A command, in this process or in its own."""

import subprocess
import sys
from typing import Any

import pytest

from esper_masks.cli.entry import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What it printed, or the error; no line is longer than 80 columns."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    text = printed.out if code == 0 else printed.err
    assert max(map(len, printed.out.splitlines()), default=0) <= 80 or "--json" in arguments
    return text


def start(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "esper_masks", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
