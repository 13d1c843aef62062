"""A rule set as pictures: which op is legal in which stage, and the lifecycle as a graph."""

import textwrap
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from esper_masks.inspection.describe import COLOURS, sentences, stayers, takers, verdict
from esper_masks.rules import MaskRules
from esper_masks.viz.routes import Box, Route, Size, around, bounds, place, point_at, routes
from esper_masks.viz.style import BLACK, GRID, MUTED, Look, look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE_WIDTH = 16  # characters that an inch of notes holds
LETTER = 0.083  # inches that a character of a name takes, at the size of its text
SMALL = 0.07
COLUMN_GAP, ROW_GAP, HEIGHT, LINE, MARGIN, ABOVE = 0.5, 0.8, 0.34, 0.15, 0.2, 0.3  # inches
CIRCLE = "\N{CLOCKWISE OPEN CIRCLE ARROW}"
GROUND = "#f4f4f4"
NOBODY = Look(MUTED, (0, (2, 2)))


def validity_table(rules: MaskRules) -> "Figure":
    """Every op in every stage: a heat map whose cells say what ``esper-masks show`` says.

        for stage, op in product(stages, ops):
            "always"  the op is legal whatever the slot holds
            "yes"     legal in this stage
            "gated"   legal in this stage where its gates pass, which stand below the table
            "."       never legal in this stage

    >>> import esper_masks as em
    >>> figure = em.viz.validity_table(em.ruleset("esper-2025-12"))
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['WAIT', 'GERMINATE', 'CULL', 'FOSSILIZE']

    Args:
        rules: a rule set. A switch that is not set is named among the gates.

    Raises:
        TypeError: no rule set.
        ImportError: matplotlib is not installed.
    """
    _check(rules)
    ops, stages = rules.op_rules, tuple(rules.stages)
    width = 1.7 + max(0.95, 0.085 * max(len(part) for op in ops for part in op.name.split("_"))) * len(ops)
    notes = [f"{op.name}, gated: {'; '.join(sentences(op))}" for op in ops if not op.always and any(sentences(op))]
    lines = [line for note in notes for line in textwrap.wrap(note, int(NOTE_WIDTH * (width - 0.2)))]
    figure = new_figure(width, 1 + 0.3 * len(stages) + 0.15 * len(lines))
    from matplotlib.patches import Rectangle

    axis = figure.subplots()
    for row, stage in enumerate(stages):
        for column, op in enumerate(ops):
            said = verdict(rules, op, stage)
            ink, ground = COLOURS.get(said, (MUTED, "white"))
            corner = column - 0.5, row - 0.5
            axis.add_patch(Rectangle(corner, 1, 1, facecolor=ground, edgecolor=GRID, gid=f"{stage.name}/{op.name}"))
            axis.text(column, row, said, color=ink, ha="center", va="center", fontsize=8)
    axis.set_xlim(-0.5, len(ops) - 0.5)
    axis.set_ylim(len(stages) - 0.5, -0.5)
    axis.set_xticks(range(len(ops)), [op.name.replace("_", "\n") for op in ops], fontsize=8)
    axis.set_yticks(range(len(stages)), [f"{stage.name}  {int(stage)}" for stage in stages], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_ylabel("stage of the slot")
    axis.set_title(f"{rules.name}: where each op is legal", fontsize=10)
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=8, x=0.01, ha="left")
    return figure


# -- the lifecycle ----------------------------------------------------------------------------------------------------


def lifecycle_graph(rules: MaskRules) -> "Figure":
    """Stages as boxes, transitions as arrows, and on them the ops that move a seed along.

    An op that moves a second slot stands on the arrows of both. A grey, dashed arrow is a move that happens by itself.
    What acts in a stage without moving the seed stands below its name. A box with a double frame is the stage of an
    empty slot, a thick one a stage that nothing leaves, a dashed one a stage that nothing enters. Stages stand in
    columns by how many moves they are from an empty slot.

        for stage, to in transitions:  # the id of an arrow, in an SVG too
            an arrow "stage->to", labelled with the ops that take it

    >>> import esper_masks as em
    >>> em.viz.lifecycle_graph(em.ruleset("esper-2026-06")).savefig("lifecycle.svg")  # doctest: +SKIP

    Args:
        rules: a rule set.

    Raises:
        TypeError: no rule set.
        ImportError: matplotlib is not installed.
    """
    _check(rules)
    stages = tuple(rules.stages)
    placed = place(stages, rules.transitions, rules.empty)
    acting = {stage: stayers(rules, stage) for stage in stages}
    edges = [(stage, to) for stage in stages for to in rules.transitions[stage]]
    ops = {edge: takers(rules, *edge) for edge in edges}
    labels = {edge: (SMALL * max(map(len, names)) + 0.05, LINE * len(names)) for edge, names in ops.items() if names}
    boxes = _boxes(placed, acting, labels)
    found = routes(boxes, edges, [labels.get(edge, (0.0, 0.0)) for edge in edges])
    texts = [around(found[edge].label, *size) for edge, size in labels.items()]
    points = [complex(x, y) for left, right, *ys in (*boxes.values(), *texts) for x, y in zip((left, right), ys)]
    for route in found.values():  # half way to its control point is as far as a curve goes
        points += [point_at(route.curve, part) for part in (0, 0.5, 1)]
    left, right, bottom, top = bounds(points, MARGIN)
    ends = {stage for stage in stages if not rules.transitions[stage]}
    met = {rules.empty, *(to for _, to in edges)}
    width = right - left
    meanings = {
        "dashed arrow: by itself": not all(ops.values()),
        "double frame: empty slot": True,
        "thick frame: final": bool(ends),
        "dashed frame: never entered": bool(set(stages) - met),
        f"{CIRCLE}: no move": any(acting.values()),
        f"{' and '.join(op.name for op in rules.op_rules if op.always)}: always legal, no move": True,
    }
    caption = textwrap.wrap(
        "; ".join(meaning for meaning, is_seen in meanings.items() if is_seen), int(NOTE_WIDTH * width)
    )
    below = 0.1 + 0.15 * len(caption)
    height = top - bottom + ABOVE + below
    figure = new_figure(width, height, constrained=False)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(left, right)  # a unit is an inch
    axis.set_ylim(bottom - below, top + ABOVE)
    numbers = {op.name: number for number, op in enumerate(op for op in rules.op_rules if not op.always)}
    for edge, route in found.items():
        _draw_edge(axis, edge, route, ops[edge], numbers)
    for stage, box in boxes.items():
        frame: dict[str, Any] = {"linewidth": 2.2 if stage in ends else 1.1}
        frame["linestyle"] = "-" if stage in met else (0, (3, 2))
        _draw_stage(axis, stage, box, acting[stage], frame, twice=stage == rules.empty)
    figure.text(0.1 / width, 1 - 0.08 / height, f"{rules.name}: lifecycle", fontsize=10, va="top")
    figure.text(0.1 / width, 0.08 / height, "\n".join(caption), fontsize=8, color=MUTED, va="bottom")
    return figure


def _boxes(
    placed: Mapping[IntEnum, tuple[int, int]],
    acting: Mapping[IntEnum, list[str]],
    labels: Mapping[tuple[IntEnum, IntEnum], Size],
) -> dict[IntEnum, Box]:
    """Boxes as wide and high as their text, in columns and rows that leave room for labels between them; inches."""
    sizes = {
        stage: (
            0.26 + max(LETTER * len(stage.name), *(SMALL * (len(op) + 2) for op in acting[stage]), 0.5),
            HEIGHT + LINE * len(acting[stage]),
        )
        for stage in placed
    }
    centres = []
    for axis, least in enumerate((COLUMN_GAP, ROW_GAP)):
        gaps: dict[int, float] = {}  # behind a column or row, where a label stands in it
        for edge, size in labels.items():
            near, far = sorted(placed[stage][axis] for stage in edge)
            if far == near + 1:
                gaps[near] = max(gaps.get(near, least), size[axis] + 0.1)
        centres.append(_centres({s: (placed[s][axis], sizes[s][axis]) for s in placed}, gaps, least))
    boxes = {}
    for stage, (width, height) in sizes.items():
        x, y = centres[0][stage], -centres[1][stage]
        boxes[stage] = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return boxes


def _centres(
    places: Mapping[IntEnum, tuple[int, float]], gaps: Mapping[int, float], least: float
) -> dict[IntEnum, float]:
    """Centres along one axis, of stages with a place in the order and a size."""
    at, edge = {}, 0.0
    for number in sorted({number for number, _ in places.values()}):
        widest = max(size for other, size in places.values() if other == number)
        at[number] = edge + widest / 2
        edge += widest + gaps.get(number, least)
    return {stage: at[number] for stage, (number, _) in places.items()}


def _draw_edge(
    axis: "Axes", edge: tuple[IntEnum, IntEnum], route: Route, ops: list[str], numbers: Mapping[str, int]
) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    colour, stroke, _ = look(numbers[ops[0]]) if ops else NOBODY
    points = [(point.real, point.imag) for point in route.curve]
    path = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.4)
    arrow.set_linestyle(stroke if not ops else "-")
    arrow.set_gid(f"{edge[0].name}->{edge[1].name}")
    axis.add_patch(arrow)
    if ops:
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        x, y = route.label.real, route.label.imag
        label = axis.text(x, y, "\n".join(ops), fontsize=7.5, ha="center", va="center", bbox=ground)
        label.set_gid(f"{edge[0].name}->{edge[1].name}")


def _draw_stage(
    axis: "Axes", stage: IntEnum, box: Box, acting: list[str], frame: dict[str, Any], *, twice: bool
) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, right, bottom, top = box
    for inset in (0.0, 0.05)[: 1 + twice]:
        corner, size = (left + inset, bottom + inset), (right - left - 2 * inset, top - bottom - 2 * inset)
        style = f"round,pad=0,rounding_size={0.09 - inset}"
        box_of = FancyBboxPatch(corner, *size, boxstyle=style, facecolor=GROUND, edgecolor=BLACK, zorder=3, **frame)
        axis.add_patch(box_of)
        box_of.set_gid(stage.name)
    middle = (left + right) / 2
    axis.text(middle, top - HEIGHT / 2, stage.name, fontsize=9, ha="center", va="center", zorder=4)
    for line, op in enumerate(acting):
        y = top - HEIGHT - LINE * line + 0.02
        axis.text(middle, y, f"{CIRCLE} {op}", fontsize=7.5, ha="center", va="center", zorder=4)


def _check(rules: object) -> None:
    if not isinstance(rules, MaskRules):
        raise TypeError(f"wanted MaskRules, got {type(rules).__name__}; ruleset(name) gives one")
