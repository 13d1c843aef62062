"""Pictures of rules, masks, trainings and measurements, as matplotlib figures. Needs the extra ``viz``.

Every function returns a ``matplotlib.figure.Figure``, without pyplot and its global state. ``figure.savefig("a.png")``
saves it; a notebook shows one that ends a cell, after ``%matplotlib inline``. Importing this needs no matplotlib;
drawing without it raises an ImportError that says what to install.

rules       ``validity_table``, ``lifecycle_graph``
masks       ``masks_over_time``, ``legal_counts_over_time``
actions     ``ops_over_time``
training    ``learning_curve``, ``entropy_curves``, ``compare_trainings``
measuring   ``scaling``, ``growth``, ``speedups``

rules       the table of ops by stages, and the graph of stages
routes      where the arrows go
over_time   masks and ops of an episode
training    curves
measuring   benchmarks
style       colours and sizes
"""

from esper_masks.viz.measuring import growth, scaling, speedups
from esper_masks.viz.over_time import legal_counts_over_time, masks_over_time, ops_over_time
from esper_masks.viz.rules import lifecycle_graph, validity_table
from esper_masks.viz.training import compare_trainings, entropy_curves, learning_curve

__all__ = [
    "compare_trainings",
    "entropy_curves",
    "growth",
    "learning_curve",
    "legal_counts_over_time",
    "lifecycle_graph",
    "masks_over_time",
    "ops_over_time",
    "scaling",
    "speedups",
    "validity_table",
]
