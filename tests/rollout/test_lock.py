"""One training a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper_masks.rollout.training.lock import FolderLock


def test_children_of_a_killed_training_hold_no_lock(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, sys, time
from pathlib import Path
from esper_masks.rollout.training.lock import FolderLock
FolderLock(Path({str(tmp_path)!r})).take()
started = subprocess.Popen(["sleep", "60"])
forked = os.fork()
if not forked:
    time.sleep(60)
    os._exit(0)
print(started.pid, forked, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        try:
            with FolderLock(tmp_path) as lock:
                with pytest.raises(BlockingIOError, match=f"process {process.pid} on "):
                    lock.take()
                process.kill()
                process.wait(timeout=60)
                for child in children:
                    os.kill(child, 0)  # lives
                lock.take()
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
    assert len(children) == 2
