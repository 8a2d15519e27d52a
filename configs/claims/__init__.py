"""Claims: arms x seeds of runs, compared by a stated test (mode claim).

A claim is a table for `mdx.claim`: `run`, `arms`, `grids`, `comparisons`. The docstring of each
file has what was measured.
"""
