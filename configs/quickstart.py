"""The bundled enterprise: six IT tasks to train on; the same families in other departments, and two unseen families,
to be evaluated on.

    mtret train --config=configs/quickstart.py --workdir=runs/quickstart
    mtret evaluate --model=runs/quickstart --suite=enterprise --split=test

The expected table stands in the README. On two CPU cores both take five minutes.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "suite": "enterprise",
            "batch": {"queries": 64, "query_length": 128, "document_length": 128},
            "optim": {"learning_rate": 2e-4},
            "loop": {"steps": 60, "evaluate_every": 30, "checkpoint_every": 30},
            "dev": {"queries": 30, "distractors": 100},
        }
    )
