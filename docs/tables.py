"""Committed results as Markdown: what the tables of the pages have in common."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

import esper_masks as em
from esper_masks.bench.cases import CENTRE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / em.__version__
SHORT = 12  # characters of a commit
TIMES = "\N{MULTIPLICATION SIGN}"
Fields = Mapping[str, Any]
Named = tuple[str, Fields]


@cache
def result(group: str) -> Any:
    """What is committed of a group, or of an experiment as ``"experiments/PART"``."""
    return json.loads((RESULTS / f"{group}-cpu.json").read_text(encoding="utf-8"))


def found(group: str, fields: Fields) -> Fields | None:
    """The row that differs from the centre in these fields."""
    wanted = {**asdict(CENTRE), **fields}
    return next((row for row in result(group)["rows"] if all(row[name] == wanted[name] for name in wanted)), None)


def nanoseconds(group: str, fields: Fields) -> float:
    """The fastest block of a row; not a number where the row was not measured."""
    row = found(group, fields)
    return float("nan") if row is None else float(row.get("ns_per_env", "nan"))


@dataclass(frozen=True)
class Grid:
    """Times of a group, one for each row and column.

    Args:
        group: the file.
        corner: what the figures are.
        rows: names and fields, and after them the fields of what is usual, if times as fast as that are wanted.
        columns: names and fields.
        figure: what is printed of nanoseconds.
        best: along which axis the least figure is bold, "column", "row" or "".
    """

    group: str
    corner: str
    rows: Sequence[tuple[str, Fields] | tuple[str, Fields, Fields]]
    columns: Sequence[Named]
    figure: Callable[[float], float] = float
    best: str = ""

    def __call__(self) -> str:
        """The table, and what it was measured on."""
        values = [
            [self.figure(nanoseconds(self.group, {**row[1], **of})) for _, of in self.columns] for row in self.rows
        ]
        cells = []
        for row, of_row in zip(self.rows, values):
            texts = [row[0]]
            for (_, column), value, of_column in zip(self.columns, of_row, zip(*values)):
                along = [v for v in (of_column if self.best == "column" else of_row) if v == v]
                text = figure(value)
                if len(row) == 3 and row[2] != row[1] and text:
                    ratio = nanoseconds(self.group, {**row[2], **column}) / nanoseconds(
                        self.group, {**row[1], **column}
                    )
                    text += f" ({figure(ratio)} {TIMES})" if ratio == ratio else ""
                best = self.best and text and value == min(along)
                texts.append(f"**{text}**" if best else text)
            cells.append(texts)
        return table(self.group, [self.corner, *(name for name, _ in self.columns)], *cells)


def table(groups: str | Sequence[str], *rows: Iterable[str]) -> str:
    """Markdown; the first row is the head. Below it is what each file of the groups was measured on."""
    head, *body = map(list, rows)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in body)]
    by_commit: dict[str, list[str]] = {}
    for group in [groups] if isinstance(groups, str) else groups:
        by_commit.setdefault(result(group)["commit"]["id"], []).append(group)
    return "\n".join([*lines, *(line for files in by_commit.values() for line in ("", told(files)))]) + "\n"


def told(groups: Sequence[str]) -> str:
    """What files of one commit were measured on."""
    made = [result(group) for group in groups]
    machine, versions = made[0]["machine"], {name: of for each in made for name, of in each["versions"].items()}
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "esper_masks")
    files = ", ".join(f"`{group}-cpu.json`" for group in groups)
    where = f"one thread of an {machine['cpu']} ({machine['capability']}), {others} ({files})."
    return fill(f"Commit `{made[0]['commit']['id'][:SHORT]}`, {where}", 120, break_on_hyphens=False)


def figure(value: float) -> str:
    if value != value:
        return ""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def batches(*sizes: int) -> list[Named]:
    return [(f"batch {size:,}" if size < 1 << 20 else f"2^{size.bit_length() - 1}", {"batch": size}) for size in sizes]
