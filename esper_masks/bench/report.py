"""A result as a table of 80 columns."""

from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from esper_masks.bench.suite import Row, case_of

LEGEND = """\
ns/env  the fastest block of calls; ±: middle half of the blocks, of the median
x loop  times faster than the loop of small tensors with Categorical (for words:
        than its masks); * where that loop was measured at another batch
limit   time to copy the fewest bytes, in the same process, over the time taken
peak    memory of a call beyond its inputs; built: time to compile"""


def print_result(console: Console, result: dict[str, Any]) -> None:
    """All rows, one axis after another, with what the columns mean."""
    machine, versions, commit = result["machine"], result["versions"], result.get("commit")
    others = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "esper_masks")
    console.print(machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores")
    console.print(others)
    console.print(f"esper_masks {versions['esper_masks']}{_at(commit)}")
    console.print(f"\n{LEGEND}")
    table = new_table("ns/env", "±", "x loop", "limit", "peak", "built")
    for _, rows in groupby(_in_order(result["rows"]), key=lambda row: case_of(row).axis):
        for row in rows:
            table.add_row(case_of(row).name, count(row["batch"]), *_figures(row))
        table.add_section()
    console.print(table)
    if result.get("interrupted"):
        console.print("Interrupted: these are the rows up to that point.")


def new_table(*titles: str) -> Table:
    """Rows by name and batch, then figures."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("row")
    for title in ("batch", *titles):
        table.add_column(title, justify="right", no_wrap=True)
    return table


def line(row: Row) -> str:
    """A row while the suite runs."""
    name = f"{case_of(row).name}, batch {row['batch']:,}"
    return f"{name}: {row['error'] if 'error' in row else _short(row['ns_per_env']) + ' ns/env'}"


def _at(commit: dict[str, Any] | None) -> str:
    return f" at {commit['id'][:12]}{' with changes' if commit['dirty'] else ''}" if commit else ""


def _in_order(rows: list[Row]) -> list[Row]:
    """Axes and names as they come, each by batch."""
    cases = [case_of(row) for row in rows]
    axes = {axis: at for at, axis in enumerate(dict.fromkeys(case.axis for case in cases))}
    names = {name: at for at, name in enumerate(dict.fromkeys(case.name for case in cases))}
    return sorted(rows, key=lambda row: (axes[case_of(row).axis], names[case_of(row).name], row["batch"]))


def _figures(row: Row) -> list[str]:
    if "error" in row:
        return [row["error"], "", "", "", "", ""]
    ratio = "" if "x_loop" not in row else _short(row["x_loop"]) + ("" if row["x_loop_batch"] == row["batch"] else "*")
    spread = (row["ns_per_env_q3"] - row["ns_per_env_q1"]) / row["ns_per_env_median"]
    peak, built = row["peak_bytes"], row["compile_s"]
    return [
        _short(row["ns_per_env"]),
        f"{spread:.0%}",
        ratio,
        _percent(row["share_of_limit"]),
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
