"""Results as tables of 80 columns, and two of them side by side."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from esper_masks.bench.suite import BenchError, Row, case_of


def print_result(console: Console, result: dict[str, Any]) -> None:
    """All rows in their order, with what the columns mean."""
    machine, versions, commit = result["machine"], result["versions"], result.get("commit")
    console.print(
        f"{machine['gpu'] or machine['cpu']}, torch {versions['torch']}, Python {versions['python']}, "
        f"esper_masks {versions['esper_masks']}"
        + (f" at {commit['id'][:12]}{' with changes' if commit['dirty'] else ''}" if commit else ""),
        highlight=False,
    )
    console.print(
        "ns/env: the fastest block of calls, and the middle half of them in per cent. x loop: times faster than the "
        "loop of small tensors with Categorical (words: than its masks alone), a star where its batch is another. "
        "limit: the fewest bytes over the bandwidth of a copy in the same process, over the time taken. "
        "peak: memory of a call beyond its inputs. first: the first call, compilation included.",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("row")
    for title in ("batch", "ns/env", "±", "x loop", "limit", "peak", "first"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(case_of(row).name, _count(row["batch"]), *_figures(row))
    console.print(table)


def line(row: Row) -> str:
    """A row while the suite runs."""
    name = f"{case_of(row).name}, batch {row['batch']:,}"
    return f"{name}: {row['error'] if 'error' in row else _short(row['ns_per_env']) + ' ns/env'}"


def _figures(row: Row) -> list[str]:
    if "error" in row:
        return [row["error"], "", "", "", "", ""]
    ratio = "" if "x_loop" not in row else _short(row["x_loop"]) + ("" if row["x_loop_batch"] == row["batch"] else "*")
    spread = (row["ns_per_env_q3"] - row["ns_per_env_q1"]) / row["ns_per_env_median"]
    share, peak = row["share_of_limit"], row["peak_bytes"]
    return [
        _short(row["ns_per_env"]),
        f"{spread:.0%}",
        ratio,
        f"{share:.0%}" if share >= 0.01 else f"{share:.1g}".replace("0.0", ".0") if share >= 1e-3 else "0%",
        "" if peak is None else f"{peak / 1e6:.0f}M",
        f"{row['first_call_s']:.0f}s" if row["first_call_s"] >= 1 else "",
    ]


def _short(value: float) -> str:
    if value >= 1e5:
        return f"{value / 1e3:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(batch: int) -> str:
    power = batch.bit_length() - 1
    return f"2^{power}" if batch == 1 << power and power > 16 else f"{batch:,}"


# -- two results ------------------------------------------------------------------------------------------------------


def compare(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[Row, float, float, float]]:
    """Rows of both: how many times as fast B is, by medians, and between which figures it lies by their quartiles.

    Raises:
        BenchError: no row in common.
    """
    theirs = {case_of(row): row for row in b["rows"] if "error" not in row}
    found = []
    for row in a["rows"]:
        other = theirs.get(case_of(row))
        if other is not None and "error" not in row:
            ratio = row["ns_per_env_median"] / other["ns_per_env_median"]
            low, high = row["ns_per_env_q1"] / other["ns_per_env_q3"], row["ns_per_env_q3"] / other["ns_per_env_q1"]
            found.append((row, ratio, low, high))
    if not found:
        raise BenchError("the two results have no row in common")
    return found


def print_comparison(console: Console, a: dict[str, Any], b: dict[str, Any]) -> None:
    """The table of ``compare``, and what differs between the two runs.

    Raises:
        BenchError: as of ``compare``.
    """
    found = compare(a, b)
    for part in ("machine", "versions"):
        for name, value in a[part].items():
            if value != b[part].get(name):
                console.print(f"note: another {name}: {value}, then {b[part].get(name)}", highlight=False)
    console.print(
        "B/A: how many times as fast the second is, by medians; from - to: by the quartiles of both. A ratio whose "
        "span holds 1 is no difference.",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("row")
    for title in ("batch", "B/A", "from", "to"):
        table.add_column(title, justify="right", no_wrap=True)
    for row, *ratios in found:
        table.add_row(case_of(row).name, _count(row["batch"]), *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
