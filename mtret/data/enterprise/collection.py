"""What every family of tasks is made of: documents, each about one cell of meaning, and a way to ask for cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtret.data.enterprise.lexicon import Department, Record
from mtret.data.enterprise.voice import Speaker


@dataclass(frozen=True)
class Document:
    """`about` is what a request can ask for; two documents never are about the same. A withdrawn one is about nothing."""

    id: str
    title: str
    text: str
    about: str | None


@dataclass(frozen=True)
class Request:
    text: str
    wants: frozenset[str]  # every meaning that satisfies it


# Words a request, of which the speaker may only want meanings that `allowed` holds; None where that cannot be done.
Ask = Callable[[Speaker, frozenset[str]], Request | None]


@dataclass(frozen=True)
class Collection:
    documents: tuple[Document, ...]
    ask: Ask


def every_record(departments: Sequence[Department]) -> list[tuple[Department, Record]]:
    return [(department, record) for department in departments for record in department.records]


def sentence_of(parts: Sequence[str]) -> str:
    """Parts of a document's text, the empty ones left out."""
    return " ".join(part for part in parts if part)
