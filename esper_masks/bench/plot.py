"""The scaling of a result as a picture. Needs matplotlib (the extra ``viz``)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper_masks.bench.cases import CENTRE, LOOPS, Case
from esper_masks.bench.suite import BenchError, Row, case_of

# colours of Okabe and Ito, told apart by colour-blind readers too; markers differ as well
LINES: tuple[tuple[str, str, str, str, Callable[[Case], bool]], ...] = (
    ("loop with Categorical", "#D55E00", "o", "-", lambda c: c.way == LOOPS[0] and c.work == "decision"),
    ("best loop with Categorical", "#E69F00", "^", "-", lambda c: c.way == LOOPS[1]),
    ("eager step", "#56B4E9", "v", "-", lambda c: c.way == "eager"),
    ("compiled step", "#0072B2", "s", "-", lambda c: c.way == "compiled" and c.work == "decision"),
    ("step in a CUDA graph", "#CC79A7", "P", "-", lambda c: c.way == "cuda-graph"),
    ("compiled masks alone", "#009E73", "D", "-", lambda c: c.way == "compiled" and c.work == "words"),
)
AXES = ("rules", "step", "layout", "threads")  # what a line has in common with the centre


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Write the picture: nanoseconds per environment over the batch, and over the slots.

    Raises:
        BenchError: without matplotlib, for a file format that it does not know, or a result without a row to draw.
        OSError: where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchError("a plot needs matplotlib: pip install 'esper-masks[viz]'") from None
    rows = [row for row in result["rows"] if "error" not in row and _like_centre(row)]
    if not rows:
        raise BenchError("the result has no row to draw")
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    three = [row for row in rows if row["slots"] == CENTRE.slots]
    for label, colour, marker, style, belongs in LINES:
        _line(
            left, "batch", [row for row in three if belongs(case_of(row))], "ns_per_env", label, colour, marker, style
        )
    decisions = [row for row in three if LINES[3][4](case_of(row))]
    _line(left, "batch", decisions, "limit_ns_per_env", "bytes of a decision, copied", "#000000", "", ":")
    by_slots = [row for row in rows if row["batch"] == CENTRE.batch and LINES[3][4](case_of(row))]
    _line(right, "slots", by_slots, "ns_per_env", "compiled step", "#0072B2", "s", "-")
    _line(right, "slots", by_slots, "limit_ns_per_env", "bytes of a decision, copied", "#000000", "", ":")
    left.set_xlabel("environments in a batch")
    left.set_ylabel("nanoseconds per environment")
    right.set_xlabel(f"slots, at {CENTRE.batch:,} environments")
    right.set_xticks([row["slots"] for row in by_slots], [str(row["slots"]) for row in by_slots])
    right.minorticks_off()
    for axis in (left, right):
        axis.grid(True, which="major", color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    machine = result["machine"]
    threads = "" if machine["gpu"] else f", {CENTRE.threads} thread"
    figure.suptitle(f"{CENTRE.rules}, {machine['gpu'] or machine['cpu']}{threads}", fontsize=10)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:  # a format that it does not know
        raise BenchError(str(error)) from None


def _like_centre(row: Row) -> bool:
    return all(row[name] == getattr(CENTRE, name) for name in AXES)


def _line(axis: Any, over: str, rows: list[Row], what: str, label: str, colour: str, marker: str, style: str) -> None:
    points = sorted({row[over]: row[what] for row in rows}.items())
    if points:
        axis.loglog(*zip(*points), color=colour, marker=marker, linestyle=style, label=label, markersize=5)
