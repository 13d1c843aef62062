"""One command that tests and measures everything on a GPU: ``python -m benchmarks.gpu -o FOLDER``."""
