"""What is legal, and what is done, step by step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout
from esper_masks.checks import check_integer
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import OP
from esper_masks.viz.style import BLUE, from_zero, look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches
LABELLED = 30  # steps that have room for a number in each cell, or a marker each
COLUMNS = 400  # of a heat map, so that each is a pixel wide at least
DARK = 55  # percent from which a number is white


def legal_shares(masks: ActionMasks, head: str = OP) -> Tensor:
    """Share of environments in which each choice of a head is legal at each step: float32 ``[time, n]``, 0 to 1.

        shares[t, choice] == masks[head][t, ..., choice].float().mean()

    Args:
        masks: ``[time]`` or ``[time, batch]``.
        head: its name.

    Raises:
        TypeError: no masks.
        ValueError: masks of another leading shape, or of no step.
        KeyError: no such head.
    """
    _check(masks)
    legal = masks[head].float()
    return legal.view(len(legal), -1, legal.shape[-1]).mean(1).cpu()


def masks_over_time(masks: ActionMasks, head: str = OP, *, step: str = "step") -> "Figure":
    """How often each op, or each choice of another head, is legal at each step: a heat map of ``legal_shares``.

    With more than 400 steps, each column is the mean of several steps, so that no step is left out.

    >>> import esper_masks as em
    >>> from esper_masks.rollout.env.baselines import random_legal
    >>> env, steps = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 64), []
    >>> for _ in range(25):
    ...     steps.append(env.masks())
    ...     _ = env.step(random_legal(env))
    >>> figure = em.viz.masks_over_time(em.ActionMasks.stack(steps), step="epoch")
    >>> figure.axes[0].get_xlabel()
    'epoch'

    Args:
        masks: ``[time]`` or ``[time, batch]``.
        head: name of the head whose choices are the rows.
        step: what a step is called.

    Raises:
        TypeError, ValueError, KeyError: see ``legal_shares``.
        ImportError: matplotlib is not installed.
    """
    shares, each = _columns(100 * legal_shares(masks, head))
    time = masks.shape[0]
    choices = masks.layout.head(head).choices
    figure = new_figure(WIDTH, 1.1 + 0.3 * len(choices))
    axis = figure.subplots()
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("legal", ["white", BLUE])
    # what is not a number of ours is not drawn: neither between two steps, nor beyond the last
    extent = (-0.5, each * len(shares[0]) - 0.5, len(choices) - 0.5, -0.5)
    image = axis.imshow(shares, aspect="auto", cmap=colours, vmin=0, vmax=100, interpolation="nearest", extent=extent)
    axis.set_xlim(-0.5, time - 0.5)
    if time <= LABELLED:
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                ink = "white" if value > DARK else "black"
                axis.text(column, row, f"{value:.0f}", color=ink, ha="center", va="center", fontsize=7)
    axis.set_yticks(range(len(choices)), choices, fontsize=8)
    axis.set_xlabel(step if each == 1 else f"{step} (a column: mean of {each})")
    axis.set_ylabel(head)
    _whole_steps(axis)
    environments = "environments" if len(masks.shape) == 2 else "steps"
    figure.colorbar(image, label=f"legal, % of {environments}", pad=0.01)
    return figure


def ops_over_time(actions: Tensor, layout: ActionLayout, *, step: str = "step") -> "Figure":
    """How often each op is taken at each step: a line for each op, in percent of the environments that act.

        share[t, op] == (actions[t, :, op_head] == op).mean() over rows that are not -1

    Args:
        actions: integer ``[time, batch, heads]``; -1 where an environment did not act.
        layout: heads and ops (``engine.layout``).
        step: what a step is called.

    Raises:
        TypeError: no layout.
        ValueError: no integers, another shape, no step, an op that is none, or a step at which nobody acts.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(layout, ActionLayout):
        raise TypeError(f"wanted an ActionLayout, got {type(layout).__name__}; engine.layout is one")
    check_integer("actions", actions)
    heads = layout.head_names
    if actions.ndim != 3 or actions.shape[-1] != len(heads) or not actions.numel():
        raise ValueError(
            f"actions have shape {tuple(actions.shape)}; wanted [time, batch, {len(heads)}] with a step at least, one "
            f"value for each of {', '.join(heads)}"
        )
    taken = actions[..., heads.index(OP)].long().cpu()
    if int(taken.max()) >= len(layout.ops) or int(taken.min()) < -1:
        raise ValueError(f"an op is {int(taken.max())} or {int(taken.min())}; the ops are 0 to {len(layout.ops) - 1}")
    acting = (taken >= 0).sum(-1)
    if not bool(acting.all()):
        raise ValueError(f"nobody acts at step {int((acting == 0).int().argmax())}")
    figure = new_figure(WIDTH, 3.4)
    axis = figure.subplots()
    for op, name in enumerate(layout.ops):
        _line(axis, (100 * (taken == op).sum(-1) / acting).tolist(), op, name)
    axis.set_xlabel(step)
    axis.set_ylabel("taken, % of environments")
    from_zero(axis, 100)
    _whole_steps(axis)
    plain(axis)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, handlelength=3.5)
    return figure


def legal_counts_over_time(masks: ActionMasks, *, step: str = "step") -> "Figure":
    """How much freedom masks leave at each step: ops and whole actions that are legal, and states that are forced.

        legal ops            masks["op"][t].sum(-1).mean()
        legal whole actions  masks.count()[t].mean()
        forced states        masks.forced[t].mean(), percent: exactly one whole action is legal

    Args:
        masks: ``[time]`` or ``[time, batch]``.
        step: what a step is called.

    Raises:
        TypeError, ValueError: see ``legal_shares``.
        ImportError: matplotlib is not installed.
    """
    _check(masks)
    time = masks.shape[0]
    ops, whole, forced = masks[OP].sum(-1), masks.count(), 100 * masks.forced.float()
    figure = new_figure(WIDTH, 4.6)
    axes = figure.subplots(3, 1, sharex=True)
    rows = ((ops, "legal ops,\nmean"), (whole, "legal whole\nactions, mean"), (forced, "forced states,\n%"))
    for number, (axis, (values, label)) in enumerate(zip(axes, rows)):
        _line(axis, values.float().view(time, -1).mean(1).tolist(), number, label)
        axis.set_ylabel(label)
        from_zero(axis, max(axis.lines[0].get_ydata()))
        plain(axis)
    from_zero(axes[2], 100)
    axes[2].set_xlabel(step)
    _whole_steps(axes[2])
    figure.align_ylabels()
    return figure


def _check(masks: object) -> None:
    if not isinstance(masks, ActionMasks):
        raise TypeError(f"wanted ActionMasks, got {type(masks).__name__}; an engine gives them, and buffer.masks()")
    if len(masks.shape) not in (1, 2) or not masks.shape.numel():
        raise ValueError(
            f"masks have the leading shape {tuple(masks.shape)}; wanted [time] or [time, batch] with a step at least, "
            "as ActionMasks.stack makes of those of single steps"
        )


def _columns(shares: Tensor) -> tuple[list[list[float]], int]:
    """Shares ``[time, n]`` as ``[n][column]``, the mean of as many steps in each column but the last, and how many."""
    each = -(-len(shares) // COLUMNS)
    return torch.stack([part.mean(0) for part in torch.split(shares, each)]).T.tolist(), each


def _line(axis: "Axes", values: Sequence[float], number: int, label: str) -> None:
    colour, stroke, marker = look(number)
    steps = range(len(values))
    every = max(1, len(values) // LABELLED)
    axis.plot(steps, values, color=colour, linestyle=stroke, marker=marker, markersize=4, markevery=every, label=label)


def _whole_steps(axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
