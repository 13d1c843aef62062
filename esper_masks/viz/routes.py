"""Where the stages of a lifecycle stand in a drawing, and how its edges run so that all can be read."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Stage = TypeVar("Stage", bound=Hashable)
Point = complex  # x to the right, y up, in inches
Size = tuple[float, float]  # width and height
Curve = tuple[Point, Point, Point]  # start, control, end
Box = tuple[float, float, float, float]  # left, right, bottom, top

BENDS = (0.0, *(sign * part for part in (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0) for sign in (1, -1)))  # parts of a length
PLACES = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)  # of a label on its edge
SAMPLES = 25  # points of a curve that are looked at
LIFT = 0.04  # of a label above an edge that it would hide, inches
APART = 0.09  # what curves and boxes keep between them, inches


class Route(NamedTuple):
    """An edge: a quadratic Bézier curve between the two boxes, and where its label is."""

    curve: Curve
    label: Point


def place(
    stages: Sequence[Stage], transitions: Mapping[Stage, Sequence[Stage]], first: Stage
) -> dict[Stage, tuple[int, int]]:
    """Column and row of each stage.

    The column is how many moves a stage is from the first one, so that most edges lead to the right; the row is the
    first free one that is not above that of the stage it was reached from. Stages that are never reached stand below
    what they lead to.
    """
    placed = {first: (0, 0)}
    queue = [first]
    for stage in queue:  # it grows
        column, row = placed[stage]
        for to in transitions[stage]:
            if to not in placed:
                placed[to] = _free(placed, column + 1, row)
                queue.append(to)
    for stage in stages:
        if stage not in placed:
            column = next((placed[to][0] for to in transitions[stage] if to in placed), 0)
            placed[stage] = _free(placed, column, 1)
    return placed


def _free(placed: Mapping[Stage, tuple[int, int]], column: int, row: int) -> tuple[int, int]:
    taken = set(placed.values())
    while (column, row) in taken:
        row += 1
    return column, row


def routes(
    boxes: Mapping[Stage, Box], edges: Sequence[tuple[Stage, Stage]], labels: Sequence[Size]
) -> dict[tuple[Stage, Stage], Route]:
    """A curve for each edge, short edges first: each takes the curve that meets the least of what is drawn.

    Args:
        boxes: of each stage, inches.
        edges: pairs of stages.
        labels: width and height of each edge's label, inches; (0, 0) for none.
    """
    made: dict[tuple[Stage, Stage], Route] = {}
    drawn = _Drawn([], [])
    lengths = [abs(_centre(boxes[a]) - _centre(boxes[b])) for a, b in edges]
    for at in sorted(range(len(edges)), key=lambda i: (lengths[i], i)):
        source, target = edges[at]
        own, size = (boxes[source], boxes[target]), labels[at]
        others = [box for stage, box in boxes.items() if stage not in edges[at]]
        best: tuple[float, Route, list[Point]] | None = None
        for bend in BENDS if source != target else BENDS[:1]:
            least = 2 * abs(bend) * lengths[at] + 0.5 * (bend != 0)
            if best is not None and least >= best[0]:
                break  # further bends cost more than what was found, whatever they meet
            curve = _between(*own, bend) if source != target else _loop(own[0])
            points = [point_at(curve, i / (SAMPLES - 1)) for i in range(SAMPLES)]
            met = least + drawn.meets(points, others)
            for share in PLACES if any(size) else PLACES[:1]:
                text = around(_label(curve, share, size[1]), *size)
                cost = met + abs(share - 0.5) + (drawn.hides(text, points, [*others, *own]) if any(size) else 0)
                if best is None or cost < best[0]:
                    best = cost, Route(curve, _centre(text)), points
        assert best is not None
        _, made[source, target], points = best
        drawn.curves.append(points)
        if any(size):
            drawn.texts.append(around(made[source, target].label, *size))
    return made


class _Drawn(NamedTuple):
    """What the next edge should not meet."""

    curves: list[list[Point]]
    texts: list[Box]

    def meets(self, curve: Sequence[Point], boxes: Sequence[Box]) -> float:
        """How much a curve runs into boxes, the worst, then into labels, then along other curves."""
        cost = 100.0 * sum(_inside(point, box, APART) for point in curve for box in boxes)
        cost += 5.0 * sum(_inside(point, box, 0) for point in curve for box in self.texts)
        mine = bounds(curve, APART)
        for other in self.curves:
            if _overlap(mine, bounds(other)):
                cost += 0.7 * sum(any(abs(p - q) < APART for q in other) for p in curve)
        return cost

    def hides(self, text: Box, curve: Sequence[Point], boxes: Sequence[Box]) -> float:
        """How much a label covers: boxes and other labels are the worst, then other curves."""
        cost = 40.0 * sum(_overlap(text, box) for box in (*boxes, *self.texts))
        return cost + 5.0 * sum(_inside(point, text, 0) for other in self.curves for point in other)


def _loop(box: Box) -> Curve:
    """From a box back to itself, above it."""
    left, right, _, top = box
    middle = complex((left + right) / 2, top)
    return middle - 0.2, middle + 0.7j, middle + 0.2


def _between(source: Box, target: Box, bend: float) -> Curve:
    """The part between two boxes of a curve from one centre to the other."""
    a, b = _centre(source), _centre(target)
    control = (a + b) / 2 + bend * 1j * (b - a)  # beside the middle, at a right angle
    whole, inside = (a, control, b), [i / 200 for i in range(201)]
    leaves = next(t for t in inside if t == 1 or not _inside(point_at(whole, t), source, 0.02))
    enters = next(t for t in reversed(inside) if t == 0 or not _inside(point_at(whole, t), target, 0.02))
    if leaves >= enters:  # the boxes touch
        return whole
    # the control point of a part of a curve: its blossom at the two ends
    blossom = _blend(_blend(a, control, leaves), _blend(control, b, leaves), enters)
    return point_at(whole, leaves), blossom, point_at(whole, enters)


def _label(curve: Curve, share: float, tall: float) -> Point:
    """The middle of a label: on its edge, or above one that is level, which it would hide."""
    start, control, end = curve
    along = end - start
    level = abs(along.imag) < 0.4 * abs(along.real) or control.imag > max(start.imag, end.imag)
    return point_at(curve, share) + (LIFT + tall / 2) * 1j * level


def _blend(p: Point, q: Point, share: float) -> Point:
    return (1 - share) * p + share * q


def point_at(curve: Curve, t: float) -> Point:
    """A point of a curve, from its start at 0 to its end at 1."""
    start, control, end = curve
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t * t * end


def _centre(box: Box) -> Point:
    left, right, bottom, top = box
    return complex(left + right, bottom + top) / 2


def around(point: Point, width: float, height: float) -> Box:
    """A box of a size with a point in its middle."""
    return point.real - width / 2, point.real + width / 2, point.imag - height / 2, point.imag + height / 2


def bounds(points: Iterable[Point], margin: float = 0.0) -> Box:
    """The smallest box that has all points at least a margin within its edges."""
    xs, ys = zip(*((point.real, point.imag) for point in points))
    return min(xs) - margin, max(xs) + margin, min(ys) - margin, max(ys) + margin


def _inside(point: Point, box: Box, margin: float) -> bool:
    left, right, bottom, top = box
    return left - margin < point.real < right + margin and bottom - margin < point.imag < top + margin


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
