"""What was learned, over environment steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esper_masks.viz.style import BLACK, BLUE, GREEN, VERMILION, Look, from_zero, look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[str, Sequence[float]]

BASELINES = (Look(VERMILION, "--"), Look(GREEN, "-."), Look(BLACK, ":"))
STEPS, RETURN, ILLEGAL, ENTROPY = "env_steps", "return_mean", "illegal_share", "entropy_"


def learning_curve(metrics: Sequence[Mapping[str, float]], baselines: Mapping[str, float] | None = None) -> "Figure":
    """What was learned: mean return of an episode over environment steps.

    >>> import esper_masks as em
    >>> metrics = [{"env_steps": 25_000, "return_mean": 0.4}, {"env_steps": 50_000, "return_mean": 1.9}]
    >>> figure = em.viz.learning_curve(metrics, {"heuristic": 8.7})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['learned', 'heuristic: 8.70']

    Args:
        metrics: figures of each iteration, as ``metrics.jsonl`` has them: ``env_steps`` and ``return_mean``.
            Iterations without a return, in which no episode ended, are left out.
        baselines: name -> mean return. Each is a line, the best first; only the best three are drawn.

    Raises:
        ValueError: no iteration has a return.
        ImportError: matplotlib is not installed.
    """
    points = _points(metrics, RETURN)
    figure = new_figure(7, 4)
    axis = figure.subplots()
    axis.plot(*points, color=BLUE, linewidth=1.5, label="learned")
    best = sorted((baselines or {}).items(), key=lambda item: -item[1])
    for (name, value), (colour, stroke, _) in zip(best, BASELINES):
        axis.axhline(value, color=colour, linestyle=stroke, linewidth=1.2, label=f"{name}: {value:.2f}")
    axis.set_ylabel("return of an episode")
    _over_steps(axis)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False, fontsize=9)
    return figure


def entropy_curves(metrics: Sequence[Mapping[str, float]]) -> "Figure":
    """Mean normalized entropy of each head over environment steps: 1 is uniform over what is legal, 0 certain.

    Args:
        metrics: figures of each iteration, as ``metrics.jsonl`` has them: ``env_steps`` and ``entropy_*``.

    Raises:
        ValueError: no iteration has an entropy.
        ImportError: matplotlib is not installed.
    """
    names = dict.fromkeys(name for line in metrics for name in line if name.startswith(ENTROPY))
    if not names:
        raise ValueError(f"none of {len(metrics)} iterations has an {ENTROPY}*; wanted those of a training's metrics")
    figure = new_figure(7, 3.6)
    axis = figure.subplots()
    for number, name in enumerate(names):
        colour, stroke, _ = look(number)
        axis.plot(*_points(metrics, name), color=colour, linestyle=stroke, label=name.removeprefix(ENTROPY))
    axis.set_ylabel("normalized entropy")
    from_zero(axis, 1)
    _over_steps(axis)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False, handlelength=3, title="head")
    return figure


def compare_trainings(
    groups: Mapping[str, Mapping[str, Sequence[Curve]]], heuristics: Mapping[str, float] | None = None
) -> "Figure":
    """Ways of training side by side: above the return, below the share of illegal actions.

    A line is the mean over the seeds of a way. The band around it reaches from the lowest seed to the highest.

    Args:
        groups: title of a column -> name of a way -> the curves of its seeds, each with as many numbers: ``env_steps``,
            ``return_mean`` and ``illegal_share`` from 0 to 1.
        heuristics: title of a column -> return to compare with.

    Raises:
        ValueError: nothing to draw, a curve that lacks one of the three, or curves of one way with other steps.
        ImportError: matplotlib is not installed.
    """
    if not groups or not all(groups.values()):
        raise ValueError("there is no training to compare; wanted title -> way -> curves of seeds")
    for title, ways in groups.items():
        for way, curves in ways.items():
            _check_curves(f"{title}, {way}", curves)
    figure = new_figure(1 + 4 * len(groups), 5.6)
    axes = figure.subplots(2, len(groups), squeeze=False, sharex="col", height_ratios=(3, 2))
    drawn = list(dict.fromkeys(way for ways in groups.values() for way in ways))
    handles: dict[str, Any] = {}
    for column, (title, ways) in enumerate(groups.items()):
        above, below = axes[:, column]
        for way, curves in ways.items():
            handles[way] = _band(above, curves, RETURN, 1, look(drawn.index(way)), way)
            _band(below, curves, ILLEGAL, 100, look(drawn.index(way)), way)
        if heuristics and title in heuristics:
            handles["heuristic"] = above.axhline(heuristics[title], color=BLACK, linestyle="--", linewidth=1)
        above.set_title(title, fontsize=9)
        _over_steps(below)
        from_zero(below, 100)
        plain(above)
    axes[0, 0].set_ylabel("return of an episode")
    axes[1, 0].set_ylabel("illegal actions, %")
    columns = min(4, 2 * len(groups))  # as many as the width has room for
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _points(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    found = [line for line in metrics if name in line and STEPS in line]
    if not found:
        raise ValueError(
            f"none of {len(metrics)} iterations has {STEPS} and {name}; wanted those of a training's metrics"
        )
    return [line[STEPS] / 1e6 for line in found], [line[name] for line in found]


def _check_curves(where: str, curves: Sequence[Curve]) -> None:
    for curve in curves:
        if lacking := [name for name in (STEPS, RETURN, ILLEGAL) if name not in curve]:
            raise ValueError(f"{where}: a curve has no {lacking[0]}; it has {', '.join(curve) or 'nothing'}")
        if any(list(curve[STEPS]) != list(curves[0][STEPS]) for curve in curves):
            raise ValueError(f"{where}: curves of one way must have the same {STEPS}, so that a mean can be taken")
    if not curves or not curves[0][STEPS]:
        raise ValueError(f"{where}: there is no curve with a point")


def _band(axis: "Axes", curves: Sequence[Curve], what: str, scale: float, look: Look, way: str) -> Any:
    steps = [number / 1e6 for number in curves[0][STEPS]]
    seeds = [[scale * value for value in together] for together in zip(*(curve[what] for curve in curves))]
    least, most = [min(s) for s in seeds], [max(s) for s in seeds]
    axis.fill_between(steps, least, most, color=look.colour, alpha=0.2, linewidth=0)
    means = [sum(s) / len(s) for s in seeds]
    [line] = axis.plot(steps, means, color=look.colour, linestyle=look.stroke, label=way)
    return line


def _over_steps(axis: "Axes") -> None:
    axis.set_xlabel("environment steps, millions")
    axis.set_xlim(left=0)
    plain(axis)
