"""Logits and masks in, actions out.

base          what both distributions are
categorical   ``MaskedCategorical``: one head
factored      ``FactoredCategorical``: whole actions, op-conditioned
softmax       where logits meet a mask: weights, scores, draws of one row, in each form
forms         stacked or unrolled: the one place where the form is chosen, and what both forms give
stacked       all heads in one pass: the form for eager code
quick         the softmax of that form in eager code on a CPU
unrolled      each choice by itself: the form that a compiler fuses
sampling      inverse CDF: an action of a row by one uniform
logits        logits of all heads, given in any of the accepted ways
noise         uniforms
faults        rows without probabilities: flags, names, errors
"""

from esper_masks.distributions.categorical import MaskedCategorical
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import raise_on_fault

__all__ = ["FactoredCategorical", "MaskedCategorical", "raise_on_fault"]
