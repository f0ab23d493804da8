"""What helps outside of what was trained on? A screening on the development splits of a fixed hold-out.

    mtret sweep experiments/009_what_wins/screen.py:DESIGN --suite=FOLDER --out=runs/DESIGN
    python experiments/009_what_wins/effects.py runs/DESIGN

`FOLDER`: the thirty public tasks and the two guards (guards.py). Ten tasks of five families are trained on; left out
are three kinds, with all tasks that share material: spider (tables and columns), intents, passages. Texts are read to
128 tokens, so that a run takes minutes. DESIGN: `yardstick`, five seeds of the plain training; `factors`, twelve runs
on the same batches (Plackett and Burman 1946), in which every factor is up in six, independently of the others.
"""

from typing import Any

from mtret.sweeps import Sweep

TRAINED = (
    *("apizoo_servicenow", "apibench", "connector_action", "metatool", "n8n_step"),
    *("aws_kb", "medquad", "tldr_kb", "tldr_crosslingual", "nl2bash"),
)
HELD_OUT = ("spider_table", "spider_column", "banking77", "clinc150", "policyqa", "tatqa")
GUARDS = ("guard_answers", "guard_languages")
EVALUATED = ("apizoo_servicenow", "metatool", "medquad", "tldr_kb", *HELD_OUT, *GUARDS)
QUERIES = 150

# Low, then high. Not factors: tasks, steps and batches.
FACTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rate": ({"optim.learning_rate": 3e-5}, {"optim.learning_rate": 1e-4}),
    "temperature": ({"loss.temperature": 0.02}, {"loss.temperature": 0.05}),
    "words": ({"optim.trainable": (("tower/embeddings/.*", False), (".*", True))}, {}),
    "symmetric": ({}, {"loss.symmetric": True}),
    "generic": ({}, {"mixture.generic_share": 0.5}),
    "balance": ({"mixture.alpha": 0.0}, {"mixture.alpha": 0.5}),
    "average": ({}, {"optim.ema_decay": 0.98}),
    "instruction": ({"templates.query": "{query}"}, {}),
    "decay": ({}, {"optim.weight_decay": 0.1}),
    "guide": ({}, {"loss.guide_margin": 0.0}),
    "base": ({}, {"optim.base_share": 0.4}),
}
# The first row of the design of twelve; the others are its rotations, and the last is all low.
ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)


def design() -> list[tuple[int, ...]]:
    rows = [tuple(ROW[(place - shift) % 11] for place in range(11)) for shift in range(11)]
    return [row[: len(FACTORS)] for row in [*rows, (0,) * 11]]


def get_sweep(which: str) -> Sweep:
    base = {
        "mixture": {"tasks": TRAINED},
        "batch": {"queries": 64, "query_length": 128, "document_length": 128},
        "loop": {"steps": 150, "evaluate_every": 150, "checkpoint_every": 75},
        "dev": {"queries": 10, "distractors": 20},
    }
    runs: Any = {"plain": {}}
    if which == "factors":
        runs = {}
        for number, row in enumerate(design()):
            runs[f"run{number:02d}"] = {
                key: value for each, up in zip(FACTORS.values(), row, strict=True) for key, value in each[up].items()
            }
    return Sweep(
        config=base,
        runs=runs,
        seeds=range(5) if which == "yardstick" else (0,),
        split="dev",
        tasks=EVALUATED,
        evaluation={"pooled": False, "scann": False},
        sample=QUERIES,
    )
