"""What the enterprise's word lists are made of.

Every list of phrases ends with one that training queries never use, so that test queries say some things in a new way.
"""

from dataclasses import dataclass

# Kinds of records: something that happens, a thing, a sum, a text, or master data that others refer to.
CASE, ASSET, MONEY, PAPER, MASTER = "case", "asset", "money", "paper", "master"
ANY_RECORD = (CASE, ASSET, MONEY, PAPER, MASTER)
# Kinds of services: a device, a way into a system, something granted to a person, a text somebody prepares.
GEAR, ACCESS, ALLOWANCE, DEED = "gear", "access", "allowance", "deed"


@dataclass(frozen=True)
class Attribute:
    """A column. The phrases are clauses about `{x}`, the record: `who looks after {x}`."""

    code: str  # house abbreviation: its suffix tells the type (docs/enterprise.md)
    label: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A kind of record that a department keeps."""

    name: str  # official
    code: str  # house abbreviation
    kind: str  # decides which operations and columns make sense
    gloss: str  # official definition
    said: tuple[str, ...]  # what people call it: countable, singular
    attributes: tuple[Attribute, ...]  # its own columns, beside the platform's


@dataclass(frozen=True)
class Service:
    """Something an employee can order or ask about."""

    name: str  # official
    kind: str
    said: tuple[str, ...]  # gear and deed: countable, singular; access and allowance: whole noun phrases


@dataclass(frozen=True)
class Department:
    """An organisational unit with its records and services."""

    name: str
    code: str
    records: tuple[Record, ...]
    links: tuple[tuple[str, str], ...]  # codes of records that a table of their own relates
    services: tuple[Service, ...]


@dataclass(frozen=True)
class Operation:
    """What the platform can do with a record, the same in every department.

    Phrases may use `{a}` (a record), `{x}` (the record, or it), `{s}` (its bare name) and `{xs}` (several).
    """

    key: str
    house: str  # the name the platform gives it
    gloss: str
    kinds: tuple[str, ...]
    keyword: str  # how somebody who types two words into a search box puts it
    said: tuple[str, ...]


@dataclass(frozen=True)
class Treatment:
    """What can be ordered for a kind of service, or what can be wrong with it."""

    key: str
    title: str  # with `{name}`
    text: str
    keyword: str
    said: tuple[str, ...]  # whole utterances


def attribute(code: str, label: str, *said: str) -> Attribute:
    """An attribute, its phrases as arguments."""
    return Attribute(code, label, said)
