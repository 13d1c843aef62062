"""The static shape of an action: heads, ops, and what numbers them.

layout      ``ActionLayout``: heads and ops of rules with slots, as plain numbers
draws       the draws that make a whole action: one head each, under some of the ops
tables      the lookup tensors of a layout on a device
packing     how masks lie in one tensor
joint       ``JointActions``: whole actions as one index
"""
