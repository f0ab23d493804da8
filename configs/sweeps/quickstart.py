"""Learning rate and batch size of the quickstart, two seeds each.

mtret sweep configs/sweeps/quickstart.py --out=runs/quickstart_sweep
"""

from mtret.sweeps import Sweep, grid


def get_sweep() -> Sweep:
    return Sweep(
        config="configs/quickstart.py",
        runs=grid({"optim.learning_rate": [2e-4, 1e-4], "batch.queries": [64, 32]}),
        seeds=(0, 1),
    )
