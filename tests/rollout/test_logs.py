"""Figures of a training: kept, drawn, and shown in a terminal."""

import math
from pathlib import Path

import pytest

from esper_masks.rollout.training.logs import TrainingLog, draw_curve, learning_curve, read_metrics, sparklines


def test_figures_that_cannot_be_kept_end_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainingLog(tmp_path)
    log._stream.close()
    with open("/dev/full", "w", encoding="utf-8") as log._stream:
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
