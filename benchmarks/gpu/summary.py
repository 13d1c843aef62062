"""What a person reads first, in Markdown, made of the results of the parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAMED = 8  # checks of a part that passed
SHOWN = 20  # failures of a part
LINES = 6  # of an error
WORDS = 200  # characters of one of its lines
TIMES = "\N{MULTIPLICATION SIGN}"


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Environment, each part's verdict, failures, then all tables."""
    return "\n".join([*_head(results), *_failures(results), *_tables(results)]).rstrip() + "\n"


def _head(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# esper_masks on a device\n"
    environments = [result["environment"] for result in results if result["environment"]]
    for name, value in environments[-1].items() if environments else ():
        yield f"- {name}: {value}"
    if any(other != environments[-1] for other in environments):
        yield "- **note**: the parts ran in different environments or at different commits; each file has its own"
    yield "\n| part | verdict | seconds | limit | options |\n|---|---|---:|---:|---|"
    for result in results:
        seconds = f"{result['seconds']:.0f} | {result['limit']:.0f}"
        verdict = result["verdict"] if result["verdict"] == "passed" else f"**{result['verdict']}**"
        yield f"| {result['part']}: {result['title']} | {verdict} | {seconds} | {' '.join(result['options'])} |"
    yield f"| together | | {sum(result['seconds'] for result in results):.0f} | | |"


def _failures(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    failed = {result["part"]: [check for check in result["checks"] if check["error"]] for result in results}
    if any(failed.values()):
        yield "\n## Failures\n\nThe first lines of each error; all of it is in `log.txt`."
    for letter, checks in failed.items():
        for check in checks[:SHOWN]:
            lines = [line for line in check["error"].splitlines() if line.strip()][:LINES]
            yield "\n".join([f"\n**{letter}: {check['name']}**\n", "```", *(line[:WORDS] for line in lines), "```"])
        if checks[SHOWN:]:
            yield f"\n**{letter}: {len(checks) - SHOWN} more**"


def _tables(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for result in results:
        yield f"\n## {result['part']}: {result['title']}\n"
        passed = [check["name"] for check in result["checks"] if not check["error"]]
        yield f"Passed: {'; '.join(passed) or 'nothing'}." if len(passed) <= NAMED else f"{len(passed)} checks passed."
        for title in dict.fromkeys(cell["table"] for cell in result["cells"]):
            cells = {(c["row"], c["column"]): c for c in result["cells"] if c["table"] == title}
            columns = list(dict.fromkeys(column for _, column in cells))
            rows = list(dict.fromkeys(row for row, _ in cells))
            yield f"\n**{title}**\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}"
            for row in rows:
                of_row = [
                    _text(cells.get((row, c)), cells.get((rows[0], c)) if row != rows[0] else None) for c in columns
                ]
                yield f"| {row} | {' | '.join(of_row)} |"


def _text(cell: Mapping[str, Any] | None, first: Mapping[str, Any] | None) -> str:
    """A figure; in brackets how many times as fast it is as that of the first row, its share of the limit, and more."""
    if cell is None:
        return ""
    more = []
    if cell["compared"] and first is not None:
        ratio = cell["value"] / first["value"]
        more.append(f"{_figure(ratio if cell['compared'] == 'rate' else 1 / ratio)} {TIMES}")
    more += [f"{100 * cell['share']:.2g} %"] if cell["share"] is not None else []
    more += [cell["note"]] if cell["note"] else []
    return _figure(cell["value"]) + (f" ({', '.join(more)})" if more else "")


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
