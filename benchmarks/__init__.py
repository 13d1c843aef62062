"""Speed of esper_masks against loop-based masks. ``make bench``, or ``pytest benchmarks``."""
