"""The encoders there are: the one explicit list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from mtret.models import bert


@dataclass(frozen=True)
class Tower:
    """What is needed to read, run and write one architecture."""

    read_config: Callable[[dict[str, Any], str], Any]  # (config.json, where it lies) -> the module's config
    module: Callable[[Any], nn.Module]
    prefixes: tuple[str, ...]  # optional prefixes of published tensor names
    unused: tuple[str, ...]  # expressions for published tensors that are carried along but not used


TOWERS: dict[str, Tower] = {
    "bert": Tower(bert.BertConfig.from_json, bert.BertTower, bert.PREFIXES, bert.UNUSED),
}
