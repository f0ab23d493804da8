"""The sixteen tasks of configs/public_suite.py, evaluated on every text task that has a test split."""

from pathlib import Path

from mtret.sweeps import Sweep

CONFIG = Path(__file__).parents[2] / "configs" / "public_suite.py"


def get_sweep() -> Sweep:
    return Sweep(str(CONFIG), {"plain": {}}, evaluation={"matmul_dtype": "bfloat16"})
