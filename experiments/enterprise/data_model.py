"""Tables and their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from collection import Collection, Document, Request, alias, every_record, sentence_of
from english import enumerated, indefinite, plural
from house_data import ALSO_ELSEWHERE, COMPANIONS, LINK_SAID, SHARED_ATTRIBUTES, TYPES, Companion
from lexicon import Attribute, Department, Record
from voice import Speaker, fill, generator

_TABLE_FRAMES = (
    "I want to find out {what}", "where can I see {what}", "the boss wants to know {what}",
    "for a report I need {what}",
    "{what}", "SQL for {what}", "which data tells us {what}", "somebody asked me {what}", "can we query {what}",
)  # fmt: skip
_FIELD_FRAMES = (
    "which column holds {what}", "where do we store {what}", "the form should also show {what}", "{what}",
    "I have to filter on {what}", "I can't find the column for {what}", "add to the list view: {what}",
    "my script needs {what}", "looking for the field that says {what}",
)  # fmt: skip
_KEYWORD_SHARE = 0.12


@dataclass(frozen=True)
class _Model:
    """A kind of record with the columns and accompanying tables that were rolled out for it."""

    department: Department
    record: Record
    attributes: tuple[Attribute, ...]
    companions: tuple[Companion, ...]

    @property
    def table(self) -> str:
        return f"u_{self.department.code}_{self.record.code}"


def _models(departments: Sequence[Department], seed: int, shared: int, companions: int) -> list[_Model]:
    found = []
    for department, record in every_record(departments):
        rng = generator(seed, "model", department.code, record.code)
        own = {attribute.code for attribute in record.attributes}
        platform = [attribute for attribute in SHARED_ATTRIBUTES[record.kind] if attribute.code not in own]
        kept = sorted(rng.permutation(len(platform))[:shared].tolist())
        possible = [companion for companion in COMPANIONS if record.kind in companion.kinds]
        beside = sorted(rng.permutation(len(possible))[:companions].tolist())
        attributes = (*(platform[i] for i in kept), *record.attributes)
        found.append(_Model(department, record, attributes, tuple(possible[i] for i in beside)))
    return found


def build_tables(departments: Sequence[Department], seed: int, shared: int, companions: int) -> Collection:
    """Every record's main table, with up to so many shared columns, its accompanying tables and the links."""
    models = _models(departments, seed, shared, companions)
    documents = [document for model in models for document in _table_documents(model, seed)]
    links = [(department, pair) for department in departments for pair in department.links]
    documents += [_link_document(department, first, second) for department, (first, second) in links]
    by_code = {(model.department.code, model.record.code): model for model in models}
    pairs = [
        (by_code[department.code, first], by_code[department.code, second]) for department, (first, second) in links
    ]
    return Collection(tuple(documents), partial(_ask_tables, models, pairs))


def build_fields(departments: Sequence[Department], seed: int, shared: int, companions: int) -> Collection:
    """The columns of the main tables that `build_tables` makes of the same arguments."""
    models = _models(departments, seed, shared, companions)
    documents = [document for model in models for document in _field_documents(model, seed)]
    return Collection(tuple(documents), partial(_ask_fields, models))


def _table_documents(model: _Model, seed: int) -> list[Document]:
    rng = generator(seed, "table", "document", model.table)
    label = f"{model.record.name}." if rng.random() < 0.8 else ""
    gloss = f"One row per {model.record.gloss}." if rng.random() < 0.4 else ""
    columns = f"Columns: {', '.join(attribute.code for attribute in model.attributes)}."
    also = alias(model.record.said, rng, 0.5)
    documents = [Document(model.table, model.table, sentence_of([label, gloss, also, columns]), model.table)]
    for companion in model.companions:
        name = f"{model.table}_{companion.suffix}"
        label = f"{companion.label.format(name=model.record.name)}." if rng.random() < 0.65 else ""
        columns = f"Columns: {companion.columns.format(code=model.record.code)}."
        also = alias(model.record.said, rng, 0.25)
        documents.append(Document(name, name, sentence_of([label, also, columns]), name))
    return documents


def _link_name(department: Department, first: str, second: str) -> str:
    return f"u_{department.code}_m2m_{first}_{second}"


def _link_document(department: Department, first: str, second: str) -> Document:
    name = _link_name(department, first, second)
    return Document(name, name, f"Columns: {first}_ref, {second}_ref, upd_by, upd_dt.", name)


def _field_documents(model: _Model, seed: int) -> list[Document]:
    documents = []
    for at, attribute in enumerate(model.attributes):
        name = f"{model.table}.{attribute.code}"
        rng = generator(seed, "field", "document", name)
        label = f"{attribute.label}." if rng.random() < 0.7 else ""
        kind = f"Type: {TYPES[attribute.code.rpartition('_')[2]]}."
        table = f"Table: {model.record.name}." if rng.random() < 0.7 else ""
        others = [other.code for other in (*model.attributes[at + 1 :], *model.attributes[:at])]
        documents.append(
            Document(name, name, sentence_of([label, kind, table, f"Beside: {', '.join(others[:3])}."]), name)
        )
    return documents


def _someone(speaker: Speaker, noun: str) -> str:
    """A record that stands for all of its kind."""
    return speaker.pick((indefinite(noun), indefinite(noun), f"each {noun}", f"the {noun}", f"a given {noun}"))


def _clauses(speaker: Speaker, attributes: Sequence[Attribute], noun: str) -> list[str]:
    first = _someone(speaker, noun)
    return [speaker.say(one.said).format(x=first if at == 0 else "it") for at, one in enumerate(attributes)]


def _ask_tables(
    models: list[_Model], pairs: list[tuple[_Model, _Model]], speaker: Speaker, allowed: frozenset[str]
) -> Request | None:
    kind = speaker.rng.random()
    if kind < 0.12:
        return _ask_link(speaker, *speaker.pick(pairs))
    model = speaker.pick(models)
    noun = speaker.call(model.record, official=0.5)
    companion = speaker.pick(model.companions)
    beside = f"{model.table}_{companion.suffix}"
    asked = [one for one in model.attributes if one.code not in ALSO_ELSEWHERE]
    if kind < 0.2:
        return Request(f"{noun} {companion.keyword} {speaker.pick(('table', 'data', 'records'))}", frozenset({beside}))
    if kind < 0.48:
        what, wants = enumerated(_clauses(speaker, speaker.sample(asked, 2), noun)), {model.table}
    elif kind < 0.85:
        what, wants = fill(speaker.say(companion.said), noun), {beside}
    else:
        clause = _clauses(speaker, speaker.sample(asked, 1), noun)[0]
        what = enumerated([clause, fill(speaker.say(companion.said), noun)], speaker.pick(("and", "plus", "and also")))
        wants = {model.table, beside}
    return Request(speaker.utter(speaker.pick(_TABLE_FRAMES).format(what=what)), frozenset(wants))


def _ask_link(speaker: Speaker, first: _Model, second: _Model) -> Request:
    """Which of one kind belong to which of another takes both tables and the one between them."""
    one, other = speaker.call(first.record, official=0.5), speaker.call(second.record, official=0.5)
    what = speaker.say(LINK_SAID).format(**{"as": plural(one), "bs": plural(other), "b": indefinite(other)})
    link = _link_name(first.department, first.record.code, second.record.code)
    return Request(
        speaker.utter(speaker.pick(_TABLE_FRAMES).format(what=what)), frozenset({first.table, second.table, link})
    )


def _ask_fields(models: list[_Model], speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    model = speaker.pick(models)
    possible = [one for one in model.attributes if f"{model.table}.{one.code}" in allowed]
    chosen = speaker.sample(possible, 1 + int(speaker.rng.random() < 0.5) + int(speaker.rng.random() < 0.25))
    if not chosen:
        return None
    noun = speaker.call(model.record, official=0.5)
    wants = frozenset(f"{model.table}.{one.code}" for one in chosen)
    if speaker.chance(_KEYWORD_SHARE):
        labels = " and ".join(one.label.lower() for one in chosen)
        return Request(f"{speaker.say(model.record.said)} {labels}", wants)
    what = enumerated(_clauses(speaker, chosen, noun))
    return Request(speaker.utter(speaker.pick(_FIELD_FRAMES).format(what=what)), wants)
