"""Which op is legal in which stage, as a picture."""

import textwrap
from typing import TYPE_CHECKING

from esper_masks.inspection.describe import COLOURS, gates, verdict
from esper_masks.rules import MaskRules
from esper_masks.viz.checks import check_rules_given
from esper_masks.viz.style import GRID, MUTED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTE_WIDTH = 16  # characters that an inch of notes holds


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
    check_rules_given(rules)
    ops, stages = rules.op_rules, tuple(rules.stages)
    width = 1.7 + max(0.95, 0.085 * max(len(part) for op in ops for part in op.name.split("_"))) * len(ops)
    notes = [f"{op.name}, gated: {'; '.join(found)}" for op in ops if not op.always and (found := list(gates(op)))]
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
