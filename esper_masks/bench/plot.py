"""A result as a picture in a file: its scaling, or what was learned. Needs matplotlib (the extra ``viz``)."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_masks.bench.cases import Case
from esper_masks.bench.suite import BenchError
from esper_masks.viz import compare_trainings, measuring
from esper_masks.viz.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | Path) -> None:
    """Raises: BenchError: without matplotlib, or for a file format that is none of ``FORMATS``."""
    if Path(path).suffix not in FORMATS:
        raise BenchError(f"--plot {path}: wanted a name in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'esper-masks[viz]'")


def is_drawn(case: Case) -> bool:
    """Whether a row is a point of one of the lines, or a line of its own."""
    return measuring.is_drawn(asdict(case)) or not case.is_timed


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Write the picture of ``viz.scaling``, or of ``viz.compare_trainings`` with a column for each number of slots.

    Raises:
        BenchError: a result without a row to draw.
        OSError: where the file cannot be written.
    """
    try:
        figure = learning(result) if any("runs" in row for row in result["rows"]) else measuring.scaling(result)
    except ValueError as error:
        raise BenchError(str(error)) from None
    save(figure, path)


def learning(result: dict[str, Any]) -> "Figure":
    """The curves of all seeds, beside the heuristic's return."""
    trained = [row for row in result["rows"] if "runs" in row]
    curves: dict[str, dict[str, Any]] = {}
    for row in trained:
        curves.setdefault(f"{row['slots']} slots", {})[row["way"]] = [run["curve"] for run in row["runs"]]
    heuristics = {f"{r['slots']} slots": r["return_mean"] for r in result["rows"] if r["way"] == "heuristic"}
    figure = compare_trainings(curves, heuristics)
    rules, seeds = trained[0]["rules"], len(trained[0]["runs"])
    figure.suptitle(f"{rules}, seeds: {seeds} (line: mean, band: least to most)", fontsize=10)
    return figure
