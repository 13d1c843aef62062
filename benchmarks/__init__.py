"""Results of ``make bench``, and what is measured beside the rows of ``esper-masks bench``.

bench_scaling   these rows under pytest-benchmark
learning        training with masks and without, which is not timed
gpu             all that a GPU can tell
results         what is committed
"""
