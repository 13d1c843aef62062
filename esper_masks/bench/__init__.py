"""The benchmark suite behind ``esper-masks bench``: a star of rows, each measured in a process of its own."""
