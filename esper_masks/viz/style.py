"""The look that all pictures share."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from esper_masks.extras import needs
from esper_masks.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colours of Okabe and Ito, "Color universal design", 2008: told apart by colour-blind readers too. Their yellow is left
# out, since a line of it does not show on white
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GRID, MUTED = "#dddddd", "#666666"
DPI, FILE_DPI = 120, 150


class Look(NamedTuple):
    """How a series is drawn. Strokes and markers differ as well as colours."""

    colour: str
    stroke: Any = "-"  # what matplotlib calls a line style
    marker: str = ""


LOOKS = (
    Look(BLUE, "-", "o"),
    Look(VERMILION, "--", "s"),
    Look(GREEN, "-.", "^"),
    Look(PURPLE, ":", "D"),
    Look(ORANGE, (0, (6, 1.5)), "v"),
    Look(SKY, (0, (3, 1, 1, 1, 1, 1)), "P"),
    Look(BLACK, (0, (1, 3)), "X"),
)


def look(index: int) -> Look:
    """The look of the series with that index; the first 49 all differ."""
    turn, at = divmod(index, len(LOOKS))
    other = LOOKS[(at + turn) % len(LOOKS)]
    return Look(LOOKS[at].colour, other.stroke, other.marker)


def new_figure(width: float, height: float, *, constrained: bool = True) -> "Figure":
    """An empty figure of a size in inches.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    with needs("viz"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained" if constrained else None)


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, in the format that its name ends in.

    Raises:
        OSError: see ``write_file``.
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix.removeprefix("."), dpi=FILE_DPI)
    write_file(path, content.getvalue())


def plain(axis: "Axes") -> None:
    """A faint grid behind what is drawn, and no frame above and to the right of it."""
    axis.grid(True, which="major", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def from_zero(axis: "Axes", top: float) -> None:
    """The axis from 0 to a number, with room at both ends: a line on an edge is cut in half, or hidden by the frame."""
    room = 0.05 * (top or 1)
    axis.set_ylim(-room, (top or 1) + room)
