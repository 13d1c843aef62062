"""A result as a picture in a file. Needs matplotlib (the extra ``viz``)."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from esper_masks.bench.cases import Case
from esper_masks.bench.suite import BenchError
from esper_masks.viz import measuring
from esper_masks.viz.style import save

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | Path) -> None:
    """Raises: BenchError: without matplotlib, or for a file format that is none of ``FORMATS``."""
    if Path(path).suffix not in FORMATS:
        raise BenchError(f"--plot {path}: wanted a name in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'esper-masks[viz]'")


def is_drawn(case: Case) -> bool:
    """Whether a row is a point of one of the lines."""
    return measuring.is_drawn(asdict(case)) or bool(measuring.sizes_of(case.rules))


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Write the picture of ``viz.scaling``, or of ``viz.growth`` for rows of that group.

    Raises:
        BenchError: a result without a row to draw.
        OSError: where the file cannot be written.
    """
    try:
        grown = any(measuring.sizes_of(row.get("rules", "")) for row in result["rows"])
        figure = (measuring.growth if grown else measuring.scaling)(result)
    except ValueError as error:
        raise BenchError(str(error)) from None
    save(figure, path)
