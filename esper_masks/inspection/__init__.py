"""What can be said of a rule set.

describe   its facts: stages, ops, heads, differences, a diagram
lint       what the author of rules may not have meant
verify     engine, whole actions, explanations and oracle compared
subjects   what verify judges by itself: ops, and heads with choices by slot
trials     the environments in which it does
"""
