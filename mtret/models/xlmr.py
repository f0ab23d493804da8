"""XLM-RoBERTa (Conneau et al., 1911.02116), and so multilingual E5: BERT, but for where positions start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtret.errors import UserError
from mtret.models.bert import UNUSED as BERT_UNUSED
from mtret.models.bert import BertConfig

PREFIXES = ("roberta.",)
UNUSED = (*BERT_UNUSED, r"lm_head\..*")


@dataclass(frozen=True, kw_only=True)
class XlmrConfig(BertConfig):
    """The first positions of the table belong to the padding token and those before it."""

    TOWER = "XLM-R"

    @classmethod
    def from_json(cls, published: Mapping[str, Any], where: str) -> Any:
        """See the base."""
        padding = published.get("pad_token_id", 1)
        if type(padding) is not int or padding < 0:
            raise UserError(f"{where}: pad_token_id is {padding!r}, not a token's id; positions start behind it")
        return cls.read(published, where, first_position=padding + 1)
