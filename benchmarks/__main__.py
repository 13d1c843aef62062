"""Run the suite and print its tables; a whole run writes ``benchmarks/results/<version>/masks-cpu.json``."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import esper_masks as em

HERE = Path(__file__).parent


def main() -> int:
    target = HERE / "results" / em.__version__ / "masks-cpu.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    options = ["-q", "--benchmark-disable-gc", "--benchmark-warmup=on", "--benchmark-quiet", f"--benchmark-json={part}"]
    code = int(pytest.main([str(HERE), *options, *sys.argv[1:]]))
    if code == 0:
        print_table(json.loads(part.read_text()))
        if not sys.argv[1:]:  # only a whole run that passed replaces the result
            part.replace(target)
            print(f"written to {target.relative_to(HERE.parent)}")
    part.unlink(missing_ok=True)
    return code


def print_table(result: dict[str, Any]) -> None:
    """Rows of one result file, one table per rules, slots and batch."""
    machine = result["machine_info"]
    console = Console(highlight=False)
    console.print(f"{machine['cpu']}, 1 thread, torch {machine['torch']}, Python {machine['python']}")
    console.print("ns/env: the fastest round; x loop, x best: times faster than small_tensors, one_tensor.")
    console.print("limit: the same bytes copied, in the same run, over the time taken; built: compile time.")
    cases = dict.fromkeys((row["rules"], row["slots"], row["batch"]) for row in result["benchmarks"])
    for case in cases:
        rows = [row for row in result["benchmarks"] if (row["rules"], row["slots"], row["batch"]) == case]
        bandwidth = ", ".join(f"copy at {row['gb_per_s']:.3g} GB/s" for row in rows if row["way"] == "copy")
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("way", no_wrap=True)
        for name in ("ns/env", "median", "x loop", "x best", "limit", "built"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                row["way"],
                *(_figure(row.get(n)) for n in ("ns_per_env", "ns_per_env_median", "x_small_tensors", "x_one_tensor")),
                f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else "",
                f"{row['compile_s']:.1f}s" if "compile_s" in row else "",
            )
        console.print(f"\n{case[0]}, {case[1]} slots, batch {case[2]:,}; {bandwidth}")
        console.print(table)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
