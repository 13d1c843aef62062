"""Rows of result files: which belong together, and the ratios between them.

Ratios are of the fastest rounds: whatever else a shared machine does can only slow a round. Medians and spreads stand
beside them.
"""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

# baseline -> how many times faster than it a row is
RATIOS = {
    "small_tensors": "x_small_tensors",
    "one_tensor": "x_one_tensor",
    "torch eager": "x_torch_eager",
    "torch compiled": "x_torch_compiled",
}
GROUP = ("rules", "slots", "case", "step", "batch")  # rows that agree in those they have do the same work


def group(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in GROUP)


def with_ratios(rows: list[Row]) -> list[Row]:
    """The rows, each with its ratios to the baselines of its group and, where bytes are known, to a copy of them."""
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(group(row), {})[row["way"]] = row
    for row in rows:
        same = groups[group(row)]
        for baseline, key in RATIOS.items():
            if baseline in same and row["way"] != "copy":
                row[key] = same[baseline]["ns_per_env"] / row["ns_per_env"]
        if "bytes_per_env" in row:
            row["gb_per_s"] = row["bytes_per_env"] / row["ns_per_env"]
        if "bytes_per_env" in row and "copy" in same:
            copy = same["copy"]
            floor = row["bytes_per_env"] / copy["bytes_per_env"] * copy["ns_per_env"]
            row["share_of_limit"] = floor / row["ns_per_env"]
    return rows


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One result of what several processes measured; machine and commit are those of the first."""
    parts = list(parts)
    return {**parts[0], "benchmarks": with_ratios([row for part in parts for row in part["benchmarks"]])}
