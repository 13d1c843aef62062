"""A command, in this process or in its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from esper_masks.cli.entry import main
from esper_masks.rollout.training import checkpoint


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


def ended_by(number: signal.Signals, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A training that logs to a folder and is sent a signal when it has saved twice."""
    command = [sys.executable, "-m", "esper_masks", "train", *arguments, "--logdir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while len(checkpoint.found(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
