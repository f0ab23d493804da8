"""Icons beside text tasks: an untrained image tower learns to meet the text tower, in the mixture that trains that one.

    mtret train --config=configs/icons.py --suite=FOLDER --workdir=runs/icons

Expected numbers: experiments/004_images/README.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {"vision": {"source": "scratch", "image_size": 48, "patch_size": 12, "width": 192, "layers": 2}},
            "mixture": {
                "tasks": ("icons", "banking77", "spider_table", "nl2bash", "metatool"),
                "weights": {"icons": 4.0, "banking77": 1.0, "spider_table": 1.0, "nl2bash": 1.0, "metatool": 1.0},
            },
            "batch": {"queries": 64, "tasks": {"icons": {"queries": 128}}},
            # The image tower begins with nothing, the text tower with what MiniLM knows.
            "optim": {"learning_rate_scales": (("vision/.*", 10.0), (".*", 1.0))},
            "loop": {"steps": 320, "evaluate_every": 40, "checkpoint_every": 80},
            "dev": {"queries": 100, "distractors": 300},
        }
    )
