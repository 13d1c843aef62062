"""A result as a table of 80 columns."""

from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from esper_masks.bench.cases import AXES
from esper_masks.bench.suite import Row, case_of
from esper_masks.progress import duration

LEGEND = """\
ns/env  the fastest block of calls; ±: middle half of the blocks, of the median
x usual times faster than the loop of small tensors with Categorical (for masks:
        than its masks), or else than torch's eager Categorical, sb3 joint or
        hosts one after another; * where that was measured at another batch
limit   time to copy the fewest bytes, in the same process, over the time taken
peak    most memory over the timed calls, beyond inputs; built: time to compile"""


def print_result(console: Console, result: dict[str, Any]) -> None:
    """All rows, one axis after another, with what the columns mean."""
    machine, versions, commit = result["machine"], result["versions"], result.get("commit")
    others = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "esper_masks")
    console.print(machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores")
    console.print(others)
    console.print(f"esper_masks {versions['esper_masks']}{_at(commit)}")
    if result["rows"]:
        console.print(f"\n{LEGEND}")
        console.print(_table(result["rows"]))
    if "seconds" in result:
        console.print(f"{len(result['rows'])} rows in {duration(result['seconds'])}")
    if result.get("interrupted"):
        console.print("Interrupted: these are the rows up to that point.")


def _table(rows: list[Row]) -> Table:
    table = new_table("ns/env", "±", "x usual", "limit", "peak", "built")
    names = list(dict.fromkeys(case_of(row).name for row in rows))
    in_order = sorted(rows, key=lambda row: (_axis(row), names.index(case_of(row).name), row["batch"]))
    for _, part in groupby(in_order, key=_axis):
        for row in part:
            table.add_row(case_of(row).name, count(row["batch"]), *_figures(row))
        table.add_section()
    return table


def new_table(*titles: str) -> Table:
    """Rows by name and batch, then figures."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("row")
    for title in ("batch", *titles):
        table.add_column(title, justify="right", no_wrap=True)
    return table


def line(row: Row) -> str:
    """A row while the suite runs."""
    made = row["error"] if "error" in row else f"{_short(row['ns_per_env'])} ns/env"
    return f"{case_of(row).title}: {made}"


def _at(commit: dict[str, Any] | None) -> str:
    return f" at {commit['id'][:12]}{' with changes' if commit['dirty'] else ''}" if commit else ""


def _axis(row: Row) -> int:
    return AXES.index(case_of(row).axis)


def _figures(row: Row) -> list[str]:
    if "error" in row:
        return [row["error"], "", "", "", "", ""]
    elsewhere = "" if row.get("x_usual_batch") == row["batch"] else "*"
    ratio = _short(row["x_usual"]) + elsewhere if "x_usual" in row else ""
    spread = (row["ns_per_env_q3"] - row["ns_per_env_q1"]) / row["ns_per_env_median"]
    limit = row["share_of_limit"] if case_of(row).has_limit else None
    peak, built = row["peak_bytes"], row["compile_s"]
    return [
        _short(row["ns_per_env"]),
        f"{spread:.0%}",
        ratio,
        "" if limit is None else _percent(limit),
        "" if peak is None else _bytes(peak),
        "" if built is None else f"{built:.0f}s",
    ]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{100 * share:.1g}%" if share >= 1e-5 else "0%"


def _bytes(size: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= u), (1.0, ""))
    return f"{size / unit:.3g}{name}" if size < 1e12 else f"{size / 1e9:.0f}G"


def _short(value: float) -> str:
    if value >= 1e5:
        return f"{value / 1e3:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(batch: int) -> str:
    """A batch; a large power of two as such."""
    power = batch.bit_length() - 1
    return f"2^{power}" if batch == 1 << power and power > 16 else f"{batch:,}"
