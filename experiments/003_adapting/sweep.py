"""Plain trainings on the sixteen tasks of configs/public_suite.py, and some with Matryoshka losses, two seeds each.

Evaluated on the text tasks but two of long documents, which take as long as all others.
"""

import runpy
from pathlib import Path

from mtret.sweeps import Sweep

CONFIG = str(Path(__file__).parents[2] / "configs" / "public_suite.py")
LONG = ("aws_kb", "medquad")
OTHERS = (  # outside the mixture
    "argument_keypoint", "concode_java", "covid_faq_multilingual", "ehrsql_column", "hwu64", "metatool_multi",
    "n8n_workflow", "pubmed_conclusion", "spidersyn_table", "sql_query", "wikitable_retrieval", "xquad_cross",
    "xquad_mono", "xsid_intent",
)  # fmt: skip


def get_sweep() -> Sweep:
    mixture = runpy.run_path(CONFIG)["MIXTURE"]
    return Sweep(
        CONFIG,
        {"plain": {}, "matryoshka": {"loss.dimensions": (256, 128, 64)}},
        seeds=(0, 1),
        tasks=sorted({*mixture, *OTHERS} - {*LONG}),
        evaluation={"pooled": False, "scann": False},
    )
