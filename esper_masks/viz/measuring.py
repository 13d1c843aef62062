"""How fast things are."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esper_masks.viz.style import BLACK, BLUE, GREEN, MUTED, ORANGE, PURPLE, SKY, VERMILION, Look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

# what all points of a picture of the scaling have in common: the centre of ``esper-masks bench``
CENTRE = {"rules": "esper-2025-12", "step": "forward", "layout": "row-major", "threads": 1, "memory": "allocated"}
SLOTS, BATCH = 3, 65536  # of its other axes
LINES = (  # label, look, and the way and work of its rows
    ("loop with Categorical", Look(VERMILION, "-", "o"), ("loop, small tensors", "decision")),
    ("best loop with Categorical", Look(ORANGE, "-", "^"), ("loop, one tensor", "decision")),
    ("eager step", Look(SKY, "-", "v"), ("eager", "decision")),
    ("compiled step", Look(BLUE, "-", "s"), ("compiled", "decision")),
    ("step in a CUDA graph", Look(PURPLE, "-", "P"), ("cuda-graph", "decision")),
    ("compiled masks alone", Look(GREEN, "-", "D"), ("compiled", "words")),
)
LIMIT = "limit: a decision's fewest bytes, copied", Look(BLACK, ":")
OTHERS = "#999999"
TIMES = "\N{MULTIPLICATION SIGN}"
GROWING = {"batch": "environments", "slots": "slots", "heads": "heads", "ops": "ops", "guards": "guards"}
SIZES = r"(\d+) heads, (\d+) ops, (\d+) guards"  # in the names of rule sets of rows of ``bench growth``
NEEDED = ("way", "work", "batch", "slots", *CENTRE)


def is_drawn(row: Row) -> bool:
    """Whether a row of ``esper-masks bench`` is a point of one of the lines of ``scaling``."""
    return all(row[name] == value for name, value in CENTRE.items()) and any(_of([row], kind) for *_, kind in LINES)


def scaling(result: Mapping[str, Any]) -> "Figure":
    """Nanoseconds per environment over the batch, and over the slots.

        em.viz.scaling(json.loads(Path("scaling-cpu.json").read_text()))

    Args:
        result: what ``esper-masks bench --json`` prints. Rows are drawn where ``is_drawn`` says so, unless they failed.

    Raises:
        ValueError: no such result, or one without a row to draw.
        ImportError: matplotlib is not installed.
    """
    rows = [row for row in _rows(result) if is_drawn(row)]
    if not rows:
        raise ValueError("the result has no row to draw")
    _, look_of_compiled, compiled = LINES[3]
    three = [row for row in rows if row["slots"] == SLOTS]
    by_slots = [row for row in _of(rows, compiled) if row["batch"] == BATCH]
    figure = new_figure(8, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for label, look, kind in LINES:
        _line(left, "batch", _of(three, kind), "ns_per_env", label, look)
    _line(left, "batch", _of(three, compiled), "limit_ns_per_env", *LIMIT)
    _line(right, "slots", by_slots, "ns_per_env", "compiled step", look_of_compiled)
    _line(right, "slots", by_slots, "limit_ns_per_env", *LIMIT)
    left.set_title(f"{SLOTS} slots", fontsize=9)
    left.set_xlabel("environments in a batch")
    right.set_title(f"batch {BATCH:,}", fontsize=9)
    right.set_xlabel("slots")
    for axis in (left, right):
        axis.set_ylabel("time per environment, ns")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        plain(axis)
    left.set_xticks([16**power for power in range(6)])
    ticks = sorted({row["slots"] for row in by_slots})
    right.set_xticks(ticks, [str(slots) for slots in ticks])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    machine = result["machine"]
    threads = "" if machine["gpu"] else f", {CENTRE['threads']} thread"
    figure.suptitle(f"{CENTRE['rules']} on {machine['gpu'] or machine['cpu']}{threads}", fontsize=10)
    return figure


def growth(result: Mapping[str, Any]) -> "Figure":
    """What a decision costs as one thing grows, a column for each: time of an environment above, and memory below.

        em.viz.growth(json.loads(Path("growth-cpu.json").read_text()))

    Args:
        result: what ``esper-masks bench growth --json`` prints. Rows that failed are left out.

    Raises:
        ValueError: no such result, or one without a row to draw.
        ImportError: matplotlib is not installed.
    """
    rows = [{**row, **found} for row in _rows(result) if (found := sizes_of(row["rules"]))]
    if not rows:
        raise ValueError("the result has no row to draw")
    centre = {name: _most([row[name] for row in rows]) for name in GROWING}
    figure = new_figure(11, 5)
    grid = figure.subplots(2, len(GROWING), sharey="row", sharex="col")
    for column, (over, label) in enumerate(GROWING.items()):
        for what, axis in zip(("ns_per_env", "bytes_per_env"), grid[:, column]):
            for name, look, (way, _) in (LINES[2], LINES[3]):
                on = [row for row in rows if row["way"] == way and _only(row, centre, over)]
                values = [{**row, "bytes_per_env": (row["peak_bytes"] or math.nan) / row["batch"]} for row in on]
                _line(axis, over, values, what, name, look)
            axis.set_yscale("log")
            axis.set_xscale("linear" if over == "guards" else "log", **({} if over == "guards" else {"base": 2}))
            plain(axis)
        axis.set_xlabel(label)
        ticks = sorted({row[over] for row in rows if _only(row, centre, over)})
        axis.set_xticks(ticks[:: 1 + len(ticks) // 6], [_short(tick) for tick in ticks[:: 1 + len(ticks) // 6]])
        axis.minorticks_off()
    grid[0][0].set_ylabel("ns per environment")
    grid[1][0].set_ylabel("bytes per environment")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    machine, fixed = result["machine"], ", ".join(f"{centre[name]:,} {label}" for name, label in GROWING.items())
    figure.suptitle(f"from {fixed}, one at a time, on {machine['gpu'] or machine['cpu']}", fontsize=10)
    return figure


def sizes_of(rules: str) -> dict[str, int]:
    """What the name of a rule set says of how large it is; nothing if it does not."""
    found = re.fullmatch(SIZES, rules)
    return {} if found is None else dict(zip(("heads", "ops", "guards"), map(int, found.groups())))


def speedups(
    ratios: Mapping[str, float], reference: str, *, title: str = "", ours: Collection[str] | None = None
) -> "Figure":
    """How many times as fast each row is: bars to the right of 1, and to the left, hatched, where a row loses.

    The axis is logarithmic: the bar of twice as fast is as long as that of half as fast. Rows of this library are blue,
    those of others grey.

    Args:
        ratios: name of a row -> time of the reference over the row's time, in the order of the bars. Above 1 is faster.
        reference: name of what the rows are compared with.
        title: above the picture.
        ours: names of the rows of this library; None where all are.

    Raises:
        ValueError: no rows, a name in ``ours`` that no row has, or a ratio that is not a number above 0.
        ImportError: matplotlib is not installed.
    """
    if not ratios:
        raise ValueError("there are no rows to draw")
    for name, ratio in ratios.items():
        if not 0 < ratio < float("inf"):
            raise ValueError(f"the ratio of {name!r} is {ratio!r}; wanted a number above 0")
    if unknown := set(ours or ()) - set(ratios):
        raise ValueError(f"ours: no row is called {min(unknown)!r}; the rows are {', '.join(ratios)}")
    figure = new_figure(8, 0.9 + 0.24 * len(ratios))
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = figure.subplots()
    for row, (name, ratio) in enumerate(ratios.items()):
        wins, is_ours = ratio >= 1, ours is None or name in ours
        look: dict[str, Any] = {"color": BLUE if is_ours else OTHERS}
        if not wins:
            look = {"facecolor": "white", "edgecolor": VERMILION if is_ours else OTHERS, "hatch": "////"}
        bar = axis.barh(row, ratio - 1, left=1, height=0.72, **look)
        said = f"{ratio:,.0f} {TIMES}" if ratio >= 100 else f"{ratio:.{3 if wins else 2}g} {TIMES}"
        axis.bar_label(bar, [said], padding=4, fontsize=8, color="black" if wins else VERMILION)
    least, most = min(1.0, *ratios.values()), max(1.0, *ratios.values())
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if most / least > 50 else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    room = (most / least) ** 0.13 * 1.1  # for the numbers beside the longest bars
    axis.set_xlim(least / room, most * room)
    axis.axvline(1, color=MUTED, linewidth=1)
    axis.set_yticks(range(len(ratios)), list(ratios), fontsize=8)
    axis.set_ylim(len(ratios) - 0.4, -0.6)
    axis.set_xlabel(f"times as fast as {reference}{' (hatched: slower)' * (least < 1)}")
    axis.set_title(title, fontsize=10)
    if ours is not None:
        from matplotlib.patches import Patch

        kinds = {"this library": BLUE, "others": OTHERS}
        handles = [Patch(color=colour, label=label) for label, colour in kinds.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plain(axis)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    return figure


def _rows(result: Mapping[str, Any]) -> list[Row]:
    """The rows of a result that did not fail.

    Raises:
        ValueError: no such result.
    """
    if not isinstance(result, Mapping) or not {"rows", "machine"} <= set(result):
        raise ValueError("this is no result of esper-masks bench: wanted a mapping with rows and machine")
    for row in result["rows"]:
        if lacking := [name for name in NEEDED if name not in row]:
            raise ValueError(f"a row of the result has no {lacking[0]}; it has {', '.join(row)}")
    return [row for row in result["rows"] if "error" not in row]


def _only(row: Row, centre: Row, over: str) -> bool:
    """Whether a row is that of the centre but for one number."""
    return all(row[name] == value for name, value in centre.items() if name != over)


def _most(values: Sequence[int]) -> int:
    """What occurs most often: the number that the others start from."""
    return max(sorted(set(values)), key=values.count)


def _short(number: int) -> str:
    return f"{number:,}" if number < 1024 else f"2^{number.bit_length() - 1}"


def _of(rows: Sequence[Row], kind: tuple[str, str]) -> list[Row]:
    return [row for row in rows if (row["way"], row["work"]) == kind]


def _line(axis: "Axes", over: str, rows: Sequence[Row], what: str, label: str, look: Look) -> None:
    points = sorted({row[over]: row[what] for row in rows}.items())
    if points:
        colour, stroke, marker = look
        axis.plot(*zip(*points), color=colour, marker=marker, linestyle=stroke, label=label, markersize=5)
