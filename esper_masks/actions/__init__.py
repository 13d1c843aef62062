"""The static shape of an action: heads, ops, and what numbers them.

layout      ``ActionLayout``: heads and ops of rules with slots, as plain numbers
contexts    the contexts in which one head is drawn
tables      the lookup tensors of a layout on a device
joint       ``JointActions``: whole actions as one index
"""
