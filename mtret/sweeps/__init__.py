"""Many trainings as one experiment: a file that says what they differ by, runs them all, and ends with one table.

What such a file needs stands here.
"""

from mtret.sweeps.definition import Sweep, grid, product, zip_

__all__ = ["Sweep", "grid", "product", "zip_"]
