"""Result files as tables of 80 columns."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.results import Row


def print_table(suite: str, result: dict[str, Any]) -> None:
    machine = result["machine_info"]
    peers = "".join(f", {name} {version}" for name, version in result.get("peers", {}).items())
    console = Console(highlight=False)
    console.print(f"{machine['cpu']}, 1 thread, torch {machine['torch']}, Python {machine['python']}{peers}")
    {"masks": _print_masks, "distributions": _print_distributions, "dropin": _print_dropin}[suite](
        console, result["benchmarks"]
    )


def _print_masks(console: Console, rows: list[Row]) -> None:
    console.print("ns/env: the fastest round; x loop, x best: times faster than small_tensors, one_tensor.")
    console.print("limit: the same bytes copied, in the same run, over the time taken; built: compile time.")
    columns = {
        "ns/env": "ns_per_env",
        "median": "ns_per_env_median",
        "x loop": "x_small_tensors",
        "x best": "x_one_tensor",
        "limit": "share_of_limit",
        "built": "compile_s",
    }
    for rules, slots, batch in _distinct(rows, "rules", "slots", "batch"):
        case = [row for row in rows if (row["rules"], row["slots"], row["batch"]) == (rules, slots, batch)]
        bandwidth = ", ".join(f"copy at {row['gb_per_s']:.3g} GB/s" for row in case if row["way"] == "copy")
        console.print(f"\n{rules}, {slots} slots, batch {batch:,}; {bandwidth}")
        console.print(_table(columns, case))


def _print_distributions(console: Console, rows: list[Row]) -> None:
    console.print(
        "ns/row: the fastest round; iqr: spread of the rounds; built: compile time, one graph for all batches."
    )
    console.print("x eager, x comp.: times faster than torch's Categorical on pre-filled logits, eager and compiled.")
    console.print(
        "Decisions: ours draws the op, then what it permits. The others draw the heads independently: not the same"
        " distribution, with illegal pairs of op and slot. Their rows are what people run today, not the same result."
    )
    columns = {
        "ns/row": "ns_per_env",
        "median": "ns_per_env_median",
        "iqr": "ns_per_env_iqr",
        "x eager": "x_torch_eager",
        "x comp.": "x_torch_compiled",
        "built": "compile_s",
    }
    for case, step, batch in _distinct(rows, "case", "step", "batch"):
        same = [row for row in rows if (row["case"], row["step"], row["batch"]) == (case, step, batch)]
        console.print(f"\n{case}, batch {batch:,}, {step}")
        console.print(_table(columns, same))


def _print_dropin(console: Console, rows: list[Row]) -> None:
    console.print("ns/env: the fastest round; x loop: times faster than the loop of small tensors that it replaces.")
    columns = {"ns/env": "ns_per_env", "median": "ns_per_env_median", "x loop": "x_small_tensors"}
    for rules, slots, batch in _distinct(rows, "rules", "slots", "batch"):
        case = [row for row in rows if (row["rules"], row["slots"], row["batch"]) == (rules, slots, batch)]
        console.print(f"\n{rules}, {slots} slots, batch {batch:,}")
        console.print(_table(columns, case))


def _distinct(rows: Iterable[Row], *names: str) -> Iterable[tuple[Any, ...]]:
    return dict.fromkeys(tuple(row[name] for name in names) for row in rows)


def new_table(first: str, *titles: str) -> Table:
    """A column of names, then figures."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _table(columns: Mapping[str, str], rows: Iterable[Row]) -> Table:
    table = new_table("way", *columns)
    for row in rows:
        table.add_row(row["way"], *(_figure(name, row.get(name)) for name in columns.values()))
    return table


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "share_of_limit":
        return f"{value:.0%}"
    if name == "compile_s":
        return f"{value:.1f}s"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"  # so that a row of a small batch fits the line
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
