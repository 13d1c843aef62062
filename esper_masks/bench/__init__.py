"""The benchmark suite behind ``esper-masks bench``: a star of rows, each measured in a process of its own.

suite           runs rows, each in a process, and collects them
cases           which rows there are
ways            the ways to compute the same, measured against each other
inputs          states and logits of a case
rows            a row as it is kept
measure         timing: warm-up, medians, spreads
memory          bytes, and the bandwidth that limits
libraries       other libraries' distributions
loops_2025_12   the masks of December 2025 in loops
loops_2026_06   those of June 2026
compare         two files of rows
report          rows as tables
plot            rows as a picture
"""
