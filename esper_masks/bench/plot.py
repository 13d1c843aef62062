"""The scaling of a result as a picture. Needs matplotlib (the extra ``viz``)."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from esper_masks.bench.cases import CENTRE, LOOPS, Case
from esper_masks.bench.suite import BenchError, Row, case_of

FORMATS = (".png", ".svg", ".pdf")
# colours of Okabe and Ito, told apart by colour-blind readers too; markers differ as well
LINES: tuple[tuple[str, str, str, Callable[[Case], bool]], ...] = (
    ("loop with Categorical", "#D55E00", "o", lambda c: c.way == LOOPS[0] and c.work == "decision"),
    ("best loop with Categorical", "#E69F00", "^", lambda c: c.way == LOOPS[1]),
    ("eager step", "#56B4E9", "v", lambda c: c.way == "eager"),
    ("compiled step", "#0072B2", "s", lambda c: c.way == "compiled" and c.work == "decision"),
    ("step in a CUDA graph", "#CC79A7", "P", lambda c: c.way == "cuda-graph"),
    ("compiled masks alone", "#009E73", "D", lambda c: c.way == "compiled" and c.work == "words"),
)
LIMIT = ("limit: a decision's fewest bytes, copied", "#000000", "")
AXES = ("rules", "step", "layout", "threads", "memory")  # what a line has in common with the centre


def check_plot(path: str | Path) -> None:
    """Raises: BenchError: without matplotlib, or for a file format that is none of ``FORMATS``."""
    if Path(path).suffix not in FORMATS:
        raise BenchError(f"--plot {path}: wanted a name in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'esper-masks[viz]'")


def is_drawn(case: Case) -> bool:
    """Whether a row is a point of one of the lines."""
    alike = all(getattr(case, name) == getattr(CENTRE, name) for name in AXES)
    return alike and any(belongs(case) for *_, belongs in LINES)


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Write the picture: nanoseconds per environment over the batch, and over the slots.

    Raises:
        BenchError: a result without a row to draw.
        OSError: where the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row and is_drawn(case_of(row))]
    if not rows:
        raise BenchError("the result has no row to draw")
    compiled, (*_, of_compiled) = LINES[3][:3], LINES[3]
    three = [row for row in rows if row["slots"] == CENTRE.slots]
    by_slots = [row for row in rows if row["batch"] == CENTRE.batch and of_compiled(case_of(row))]
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for *look, belongs in LINES:
        _line(left, "batch", [row for row in three if belongs(case_of(row))], "ns_per_env", *look)
    _line(left, "batch", [row for row in three if of_compiled(case_of(row))], "limit_ns_per_env", *LIMIT)
    _line(right, "slots", by_slots, "ns_per_env", *compiled)
    _line(right, "slots", by_slots, "limit_ns_per_env", *LIMIT)
    left.set_title(f"{CENTRE.slots} slots", fontsize=9)
    left.set_xlabel("environments in a batch")
    left.set_ylabel("time per environment, ns")
    left.set_xscale("log", base=2)
    left.set_xticks([16**power for power in range(6)])
    right.set_title(f"batch {CENTRE.batch:,}", fontsize=9)
    right.set_xlabel("slots")
    right.set_ylabel("time per environment, ns")
    right.set_xscale("log", base=2)
    right.set_xticks(
        sorted({row["slots"] for row in by_slots}), sorted({str(row["slots"]) for row in by_slots}, key=int)
    )
    for axis in (left, right):
        axis.set_yscale("log")
        plain(axis)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    machine = result["machine"]
    threads = "" if machine["gpu"] else f", {CENTRE.threads} thread"
    figure.suptitle(f"{CENTRE.rules} on {machine['gpu'] or machine['cpu']}{threads}", fontsize=10)
    figure.savefig(path, dpi=150)


def plain(axis: Any) -> None:
    """A faint grid behind what is drawn, and no frame above and to the right of it."""
    axis.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _line(axis: Any, over: str, rows: list[Row], what: str, label: str, colour: str, marker: str) -> None:
    points = sorted({row[over]: row[what] for row in rows}.items())
    if points:
        style = "-" if marker else ":"
        axis.plot(*zip(*points), color=colour, marker=marker, linestyle=style, label=label, markersize=5)
