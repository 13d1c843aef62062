"""The log folder: figures are kept, drawn, and shown in a terminal; and it is of one training."""

import math
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from esper_masks.rollout.training.logs import FolderLock, TrainingLog, draw_curve, read_metrics, sparklines
from esper_masks.viz import learning_curve


def test_figures_that_cannot_be_kept_end_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open

    def full(path: Any, *given: Any, **settings: Any) -> Any:
        return opened("/dev/full" if path == tmp_path / "metrics.jsonl" else path, *given, **settings)

    monkeypatch.setattr("builtins.open", full)
    log = TrainingLog(tmp_path)
    log({"env_steps": 1.0})
    log({"env_steps": 2.0})
    assert capsys.readouterr().err == f"{tmp_path}: figures are not kept from here on: No space left on device\n"
    log.close()


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = TrainingLog(tmp_path)
    for step in range(5):
        log({"env_steps": step * 1e6, "return_mean": math.nan if step == 2 else step * 1.5})
    log.close()
    assert "return_mean" not in read_metrics(tmp_path)[2]
    assert draw_curve(tmp_path, {"random": 0.0, "heuristic": 2.5}) == tmp_path / "learning-curve.png"
    axis = learning_curve(read_metrics(tmp_path), {"random": 0.0, "heuristic": 2.5}).axes[0]
    assert axis.lines[0].get_xydata().tolist() == [[0, 0], [1, 1.5], [3, 4.5], [4, 6]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["learned", "heuristic: 2.50", "random: 0.00"]


def test_curves_are_shown_in_the_terminal_too() -> None:
    lines = [{"env_steps": at, "return_mean": at / 10, "entropy_op": 1 - at / 80} for at in range(80)]
    lines[3].pop("return_mean")
    rise, fall = sparklines(lines, 8)
    assert rise == f"return mean          {rise.split()[2]} ▁▂▃▄▅▆▇█ 7.45"
    assert fall == "entropy op           0.94 █▇▆▅▄▃▂▁ 0.07"
    assert sparklines([{"env_steps": 0, "return_mean": 1.0}] * 3)[0].split()[3] == "▁▁▁"
    assert sparklines(lines[:1]) == []


def test_a_lock_that_was_given_back_is_forgotten(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.take()
    lock.give_back()
    lock.give_back()  # nothing, a second time
    forgotten = weakref.ref(lock)
    del lock
    assert forgotten() is None


def test_children_of_a_killed_training_hold_no_lock(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, sys, time
from pathlib import Path
from esper_masks.rollout.training.logs import FolderLock
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
