"""Many trainings as one experiment: a file that says what they differ by, runs them all, and ends with one table.

What such a file needs stands here.
"""

from mtret.sweeps.definition import Sweep, between, choice, grid, product, search, zip_

__all__ = ["Sweep", "between", "choice", "grid", "product", "search", "zip_"]
