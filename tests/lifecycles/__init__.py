"""Truth tables, by hand, of the example rule sets in ``docs/lifecycles``.

tables     what a case says, and what engine and oracle answer
mutants    the same rules with one thing changed
servers    a cloud's servers
jobs       batch jobs
pods       pods with a disruption budget
units      units of a game
"""
