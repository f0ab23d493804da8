"""Sixteen public tasks in one mixture; eleven more to be evaluated across domains, and two of families never trained.

Data: task folders as docs/data.md describes them; their place is given on the command line:

    mtret train --config=configs/public_suite.py --suite=FOLDER --workdir=runs/public_suite

On two CPU cores: see experiments/001_public_suite/README.md for time and expected numbers.
"""

from ml_collections import ConfigDict

MIXTURE = (
    "spider_table",
    "spider_column",
    "apizoo_servicenow",
    "apibench",
    "connector_action",
    "metatool",
    "n8n_step",
    "banking77",
    "clinc150",
    "aws_kb",
    "medquad",
    "tldr_kb",
    "nl2bash",
    "policyqa",
    "tatqa",
    "tldr_crosslingual",
)


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "mixture": {"tasks": MIXTURE},
            "batch": {"queries": 64},
            "loop": {"steps": 150, "evaluate_every": 75, "checkpoint_every": 25},
            # Documents here are long: with the default sample the dev evaluations would take as long as the training.
            "dev": {"queries": 50, "distractors": 200},
        }
    )
