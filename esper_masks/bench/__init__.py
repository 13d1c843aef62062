"""The benchmark suite behind ``esper-masks bench``: groups of rows, each row measured in a process of its own.

suite           runs rows, each in a process, and collects them
cases           which rows there are, in which groups, and how long one takes
ways            the ways to compute the same, measured against each other
checking        what each has to give, checked before it is timed
dropin          the drop-in functions, and the loops that they replace
training        training, ours and MaskablePPO's
maskable_ppo    sb3-contrib's MaskablePPO in our environment
networks        an epoch of a population of networks, or of one after another
sequential      networks that are trained one after another
inputs          states and logits of a case
measure         timing: warm-up, medians, spreads
first_call      the first call of a process, with and without what another one has kept
memory          bytes, and the bandwidth that limits
libraries       other libraries' distributions
loops           the loops that the engine replaces
loops_2025_12   the masks of December 2025 in loops
loops_2026_06   those of June 2026
loops_pods      those of pods
lifecycles      rule sets that only rows have: one for each kind of guard, and pods
compare         two files of rows
report          rows as tables
plot            rows as a picture
"""
