"""Logits and masks in, actions out.

categorical   ``MaskedCategorical``: one head
factored      ``FactoredCategorical``: whole actions, op-conditioned
softmax       where logits meet a mask: weights, scores, draws of one row
stacked       all heads in one pass: the form for eager code
unrolled      each context by itself: the form that a compiler fuses
logits        logits of all heads, given in any of the accepted ways
sampling      inverse CDF: an action of a row by one uniform
noise         uniforms
faults        rows without probabilities: flags, names, errors
"""

from esper_masks.distributions.categorical import MaskedCategorical
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import raise_on_fault

__all__ = ["FactoredCategorical", "MaskedCategorical", "raise_on_fault"]
