"""Catalogue items and knowledge articles: what is done for a service, and what is known about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from collection import Collection, Document, Request, alias, sentence_of
from english import capitalised, closed, indefinite
from house_services import OFFERS, TOPICS
from lexicon import ACCESS, ALLOWANCE, Department, Service, Treatment
from voice import Speaker, generator

_JOINTS = ("also,", "one more thing:", "besides,", "and")
_KEYWORD_SHARE = 0.15


@dataclass(frozen=True)
class _Cell:
    department: Department
    service: Service
    treatment: Treatment
    about: str


def _cell(department: Department, service: Service, treatment: Treatment) -> _Cell:
    slug = service.name.lower().replace(" ", "_")
    return _Cell(department, service, treatment, f"{department.code}.{slug}.{treatment.key}")


def build_catalogue(departments: Sequence[Department], seed: int, per_service: int) -> Collection:
    """Up to `per_service` things to order for every service."""
    cells = _cells(departments, OFFERS, seed, per_service, "catalog")
    return Collection(tuple(_catalogue_document(cell, seed) for cell in cells), partial(_ask, cells, 0.25))


def build_articles(departments: Sequence[Department], seed: int, per_service: int) -> Collection:
    """Up to `per_service` things to know about every service."""
    cells = _cells(departments, TOPICS, seed, per_service, "article")
    return Collection(tuple(_article_document(cell, seed) for cell in cells), partial(_ask, cells, 0.12))


def _cells(
    departments: Sequence[Department],
    treatments: Mapping[str, tuple[Treatment, ...]],
    seed: int,
    per_service: int,
    family: str,
) -> list[_Cell]:
    found = []
    for department in departments:
        for service in department.services:
            possible = treatments[service.kind]
            order = generator(seed, family, "offered", department.code, service.name).permutation(len(possible))
            found += [_cell(department, service, possible[i]) for i in sorted(order[:per_service].tolist())]
    return found


def _catalogue_document(cell: _Cell, seed: int) -> Document:
    rng = generator(seed, "catalog", "document", cell.about)
    text = cell.treatment.text if rng.random() < 0.75 else ""
    days = f"Area: {cell.department.name}. Working days: {int(rng.integers(1, 15))}."
    title = cell.treatment.title.format(name=cell.service.name)
    return Document(cell.about, title, sentence_of([text, alias(cell.service.said, rng, 0.25), days]), cell.about)


def _article_document(cell: _Cell, seed: int) -> Document:
    rng = generator(seed, "article", "document", cell.about)
    number = f"KB{int(rng.integers(10_000, 99_999)):07d}."
    audience = "For all staff." if rng.random() < 0.3 else ""
    title = cell.treatment.title.format(name=cell.service.name)
    return Document(
        cell.about,
        title,
        sentence_of([cell.treatment.text, alias(cell.service.said, rng, 0.25), audience, number]),
        cell.about,
    )


def _utterance(speaker: Speaker, cell: _Cell) -> str:
    noun = speaker.say(cell.service.said)
    if cell.service.kind not in (ACCESS, ALLOWANCE) and speaker.chance(0.2):
        noun = cell.service.name.lower()
    phrase = speaker.say(cell.treatment.said)
    if cell.service.kind in (ACCESS, ALLOWANCE):
        return phrase.format(x=cell.service.name if speaker.chance(0.2) else noun)
    return phrase.format(a=indefinite(noun), s=noun)


def _ask(cells: list[_Cell], pair_share: float, speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    possible = [cell for cell in cells if cell.about in allowed]
    chosen = speaker.sample(possible, 2 if speaker.chance(pair_share) else 1)
    wants = frozenset(cell.about for cell in chosen)
    if len(chosen) == 1 and speaker.chance(_KEYWORD_SHARE):
        noun = speaker.say(chosen[0].service.said).removeprefix("the ").removeprefix("a ")
        return Request(f"{noun} {chosen[0].treatment.keyword}", wants)
    utterances = [_utterance(speaker, cell) for cell in chosen]
    if len(utterances) == 1:
        return Request(speaker.utter(utterances[0]), wants)
    second = closed(utterances[1])
    return Request(speaker.utter(f"{closed(utterances[0])} {capitalised(speaker.pick(_JOINTS))} {second}"), wants)
