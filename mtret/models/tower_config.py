"""What the configurations of all text towers have in common."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar

from mtret.encoder_folder.modules import Head
from mtret.errors import UserError

MOST_LAYERS, LARGEST_SIZE = 1000, 10_000_000


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Geometry under its published names, and how it is run, which is the run's own."""

    TOWER: ClassVar[str]  # its name, in messages
    DROPOUTS: ClassVar[tuple[str, ...]]  # fields that hold a rate of dropout; the first: of attention's weights
    FIXED: ClassVar[Mapping[str, Any]] = {}  # what this tower does, where a config.json could ask for something else

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    matmul_dtype: str = "float32"  # this and the following as in ModelConfig
    attention: str = "xla"
    remat: bool = False
    head: Head = field(default_factory=Head)  # what makes vectors of its states

    @classmethod
    def from_json(cls, published: Mapping[str, Any], where: str) -> Any:
        """From `config.json`. Raises UserError where it asks for what this tower does not do, or lacks a field."""
        return cls.read(published, where)

    @classmethod
    def read(cls, published: Mapping[str, Any], where: str, **derived: Any) -> Any:
        """As `from_json`, but for the fields that are `derived`."""
        for key, ours in cls.FIXED.items():
            if published.get(key, ours) != ours:
                raise UserError(f"{where}: {key} is {published[key]!r}; the {cls.TOWER} tower knows {ours!r} only")
        given = {**published, **derived}
        of_file = [each for each in fields(cls) if each.name not in ("matmul_dtype", "attention", "remat", "head")]
        missing = [each.name for each in of_file if each.name not in given and each.default is MISSING]
        if missing:
            raise UserError(f"{where}: no '{missing[0]}'; is this the config.json of a {cls.TOWER} encoder?")
        config = cls(**{each.name: _value(each, given[each.name], where) for each in of_file if each.name in given})
        if config.hidden_size % config.num_attention_heads:
            heads = config.num_attention_heads
            raise UserError(f"{where}: hidden_size {config.hidden_size} is not a multiple of {heads} attention heads")
        return config

    def running(self, matmul_dtype: str, attention: str, remat: bool, dropout: float | None) -> "TowerConfig":
        """Run so. `dropout`: everywhere; None: as published."""
        rates = {} if dropout is None else dict.fromkeys(self.DROPOUTS, dropout)
        return replace(self, matmul_dtype=matmul_dtype, attention=attention, remat=remat, **rates)

    @property
    def attention_dropout_rate(self) -> float:
        """Of attention's weights."""
        return float(getattr(self, self.DROPOUTS[0]))

    @property
    def max_length(self) -> int:
        """Tokens of the longest text that it can encode."""
        return self.max_position_embeddings

    @property
    def heads(self) -> tuple[int, int]:
        """How many there are, and the features of each."""
        return self.num_attention_heads, self.hidden_size // self.num_attention_heads


def _value(field: Field, value: Any, where: str) -> Any:
    """A file from the network may hold anything: sizes that no encoder has must not reach the code that makes them."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.type is float:
        if not number:
            raise UserError(f"{where}: {field.name} is {value!r}, not a number")
        return float(value)
    if field.type is int:
        least = 0 if field.name in ("type_vocab_size", "first_position") else 1
        most = MOST_LAYERS if field.name == "num_hidden_layers" else LARGEST_SIZE
        if not number or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"{where}: {field.name} is {value!r}, which no encoder has")
    return value
