"""The text encoders there are: the one explicit list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from mtret.models import bert, gte, modernbert, xlmr
from mtret.models.tower_config import TowerConfig


@dataclass(frozen=True)
class Tower:
    """What is needed to read, run and write one architecture."""

    config: type[TowerConfig]
    module: type[nn.Module]
    prefixes: tuple[str, ...]  # optional prefixes of published tensor names
    unused: tuple[str, ...]  # expressions for published tensors that are carried along but not used
    # (config.json, a server or "") -> what is exported, where that is to differ
    exported: Callable[[dict[str, Any], str], dict[str, Any]] = lambda published, target: published


GTE = Tower(gte.GteConfig, gte.GteTower, gte.PREFIXES, gte.UNUSED, gte.exported)

TOWERS: dict[str, Tower] = {  # by model_type of config.json
    "bert": Tower(bert.BertConfig, bert.BertTower, bert.PREFIXES, bert.UNUSED),
    "xlm-roberta": Tower(xlmr.XlmrConfig, bert.BertTower, xlmr.PREFIXES, xlmr.UNUSED),
    "new": GTE,
    "gte": GTE,
    "modernbert": Tower(
        modernbert.ModernBertConfig,
        modernbert.ModernBertTower,
        modernbert.PREFIXES,
        modernbert.UNUSED,
        modernbert.exported,
    ),
}
