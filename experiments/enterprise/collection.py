"""What every family of tasks is made of: documents, each about one cell of meaning, and a way to ask for cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lexicon import Department, Record
from voice import Speaker


@dataclass(frozen=True)
class Document:
    """`about` is the meaning that a request can ask for, each document's own; a withdrawn document has none."""

    id: str
    title: str
    text: str
    about: str | None


@dataclass(frozen=True)
class Request:
    """What somebody wrote, and what would help."""

    text: str
    wants: frozenset[str]  # every meaning that satisfies it


# Words a request, of which the speaker may only want meanings that `allowed` holds; None where that cannot be done.
Ask = Callable[[Speaker, frozenset[str]], Request | None]


@dataclass(frozen=True)
class Collection:
    """The documents of one task and its askers."""

    documents: tuple[Document, ...]
    ask: Ask


def every_record(departments: Sequence[Department]) -> list[tuple[Department, Record]]:
    """The kinds of records of several departments, in order."""
    return [(department, record) for department in departments for record in department.records]


def sentence_of(parts: Sequence[str]) -> str:
    """Parts of a document's text, the empty ones left out."""
    return " ".join(part for part in parts if part)


def alias(said: Sequence[str], rng: np.random.Generator, share: float) -> str:
    """`Also: laptop.`, one colloquial name, in this share of cases, else nothing."""
    name = said[int(rng.integers(len(said)))]
    name = name.removeprefix("the ").removeprefix("an ").removeprefix("a ")
    return f"Also: {name}." if rng.random() < share else ""
