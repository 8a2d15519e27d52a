"""Claims: arms x seeds of runs, compared by a stated test (mode claim).

A claim is a table with `run`, `arms`, `grids` and `comparisons`. The docstring of each
file has what was measured.
"""
