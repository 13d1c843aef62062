"""One decision step as one unit, and where decisions are kept.

step      ``DecisionStep``: slot states and logits in, actions out; eager, compiled or as a CUDA graph
rows      ``Decision`` and ``Evaluation``: what a step gives
buffer    ``RolloutBuffer``: the decisions of a rollout
given     ``Given``: what a caller knows beside the states
export    a step as a file that runs without Python
packing   how many words the masks of a row are kept in
chunks    large batches in chunks that stay in a CPU's cache
checks    what a buffer is made with and called with
"""

from esper_masks.decision.buffer import Minibatch, RolloutBuffer
from esper_masks.decision.given import Given
from esper_masks.decision.rows import Decision, Evaluation
from esper_masks.decision.step import DecisionStep

__all__ = ["Decision", "DecisionStep", "Evaluation", "Given", "Minibatch", "RolloutBuffer"]
