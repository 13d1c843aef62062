"""Two results side by side: how many times as fast the second is, and how sure that is."""

from dataclasses import asdict
from typing import Any

from rich.console import Console

from esper_masks.bench.report import count, new_table
from esper_masks.bench.suite import BenchError, Row, case_of

MEANING = """\
B/A: how many times as fast the second is, by medians; from, to: the same by the
quartiles of both that are furthest apart. ~ marks a span that holds 1, which is
no difference."""


def compare(a: dict[str, Any], b: dict[str, Any]) -> list[Row]:
    """Rows that both results measured: the fields of the case, and ``ratio``, ``low`` and ``high``.

        ratio  median of a / median of b
        low    lower quartile of a / upper quartile of b
        high   upper quartile of a / lower quartile of b

    Raises:
        BenchError: no row in common.
    """
    theirs = {case_of(row): row for row in b["rows"] if "ns_per_env" in row}
    found = []
    for row in a["rows"]:
        other = theirs.get(case_of(row))
        if other is not None and "ns_per_env" in row:
            ratio = row["ns_per_env_median"] / other["ns_per_env_median"]
            low, high = row["ns_per_env_q1"] / other["ns_per_env_q3"], row["ns_per_env_q3"] / other["ns_per_env_q1"]
            found.append({**asdict(case_of(row)), "ratio": ratio, "low": low, "high": high})
    if not found:
        raise BenchError("the two results have no row in common")
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of machine, versions and commit is not the same in both, name -> (a's, b's)."""
    left, right = ({**x["machine"], **x["versions"], "commit": (x.get("commit") or {}).get("id")} for x in (a, b))
    return {
        name: (left.get(name), right.get(name))
        for name in dict.fromkeys((*left, *right))
        if left.get(name) != right.get(name)
    }


def print_comparison(console: Console, a: dict[str, Any], b: dict[str, Any]) -> None:
    """The table of ``compare``, and what differs between the two runs.

    Raises:
        BenchError: see ``compare``.
    """
    found = compare(a, b)
    for name, (first, second) in differences(a, b).items():
        console.print(f"note: another {name}: {first}, then {second}")
    alone = len(a["rows"]) + len(b["rows"]) - 2 * len(found)
    if alone:
        console.print(f"note: {alone} rows without a time in the other result are left out")
    console.print(MEANING)
    table = new_table("B/A", "from", "to", "")
    for row in found:
        ratios = (f"{row[name]:.3g}" for name in ("ratio", "low", "high"))
        table.add_row(case_of(row).name, count(row["batch"]), *ratios, "~" if row["low"] <= 1 <= row["high"] else "")
    console.print(table)
