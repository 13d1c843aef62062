"""What can be said of a rule set.

describe   its facts: stages, ops, heads, differences, a diagram
verify     engine, whole actions, explanations and oracle compared over everything that two slots can be
"""
