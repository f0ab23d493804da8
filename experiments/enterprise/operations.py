"""Flow steps and REST operations: an operation of the platform on a kind of record."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from collection import Collection, Document, Request, alias, every_record, sentence_of
from english import enumerated, plural
from house_operations import ENDPOINTS, STEPS
from lexicon import Department, Operation, Record
from voice import Speaker, fill, generator

_STEP_FRAMES = (
    "{when} {acts}", "{when} {acts}", "I need a flow that can {acts}", "please build something to {acts}",
    "can the flow {acts}", "we want to {acts} automatically", "how do I {acts} without doing it by hand", "{acts}",
    "the automation should {acts}",
)  # fmt: skip
_TRIGGERS = (
    "every Monday", "once the form is in,", "after midnight,", "when somebody clicks the button,", "first of all,",
    "as soon as the mail arrives,", "if the amount is high,", "at the end of the day,", "when that has happened,",
)  # fmt: skip
_ENDPOINT_FRAMES = (
    "which endpoint lets me {acts}", "how do I {acts} over REST", "what do I call to {acts}",
    "from Python I want to {acts}",
    "our middleware has to {acts}", "need to {acts} via the API", "is there a call to {acts}", "{acts} with curl",
    "the mobile app must be able to {acts}",
)  # fmt: skip
_SEQUENCES = (" and then ", ", then ", " and after that ", " and ", "; next, ")
# Nobody asks for both in one breath.
_INCOMPATIBLE = (
    {"seal", "void"}, {"raise", "sweep"}, {"raise", "pull"}, {"pull", "sweep"}, {"create", "read"}, {"create", "erase"},
)  # fmt: skip
_BY_NATURE_FIRST = ("raise", "pull", "sweep", "create", "read")
_BY_NATURE_LAST = ("seal", "void", "shelve", "erase")
_KEYWORD_SHARE = 0.12
_WITHDRAWN_SHARE = 0.04


@dataclass(frozen=True)
class _Cell:
    department: Department
    record: Record
    operation: Operation
    about: str


def _cell(department: Department, record: Record, operation: Operation) -> _Cell:
    return _Cell(department, record, operation, f"{department.code}.{record.code}.{operation.key}")


def build_steps(departments: Sequence[Department], seed: int, per_record: int) -> Collection:
    """`per_record` steps for every kind of record, or as many as make sense for it."""
    cells = _cells(departments, STEPS, seed, per_record, "step")
    return Collection(tuple(_step_documents(cells, seed)), partial(_ask_steps, cells))


def build_endpoints(departments: Sequence[Department], seed: int, per_record: int) -> Collection:
    """`per_record` operations for every kind of record, or as many as make sense for it."""
    cells = _cells(departments, ENDPOINTS, seed, per_record, "api")
    return Collection(tuple(_endpoint_documents(cells, seed)), partial(_ask_endpoints, cells))


def _cells(
    departments: Sequence[Department], operations: Sequence[Operation], seed: int, per_record: int, family: str
) -> list[list[_Cell]]:
    """The operations that each kind of record offers."""
    found = []
    for department, record in every_record(departments):
        possible = [operation for operation in operations if record.kind in operation.kinds]
        order = generator(seed, family, "offered", department.code, record.code).permutation(len(possible))
        found.append([_cell(department, record, possible[i]) for i in sorted(order[:per_record].tolist())])
    return found


def _step_documents(cells: list[list[_Cell]], seed: int) -> list[Document]:
    documents = []
    for cell in (cell for row in cells for cell in row):
        rng = generator(seed, "step", "document", cell.about)
        title = f"{cell.operation.house} {cell.record.name}"
        gloss = cell.operation.gloss if rng.random() < 0.5 else ""
        about_record = f"{cell.record.name}: {cell.record.gloss}." if rng.random() < 0.3 else ""
        inputs = f"Area: {cell.department.name}. In: {cell.record.code}_ref."
        also = alias(cell.record.said, rng, 0.25)
        documents.append(Document(cell.about, title, sentence_of([gloss, about_record, inputs, also]), cell.about))
        if rng.random() < _WITHDRAWN_SHARE:
            note = f"Withdrawn, replaced by {title}. {inputs}"
            documents.append(Document(f"{cell.about}.old", f"{title} (2019)", note, None))
    return documents


def _endpoint_documents(cells: list[list[_Cell]], seed: int) -> list[Document]:
    documents = []
    for cell in (cell for row in cells for cell in row):
        rng = generator(seed, "api", "document", cell.about)
        method, _, path = cell.operation.house.partition(" ")
        collection = f"/{cell.department.code}/{cell.record.code}{path}"
        gloss = cell.operation.gloss if rng.random() < 0.6 else ""
        resource = f"Resource: {cell.record.name}." if rng.random() < 0.8 else ""
        also = alias(cell.record.said, rng, 0.25)
        role = f"Role: {cell.department.code}_{'reader' if method == 'GET' else 'writer'}."
        documents.append(
            Document(cell.about, f"{method} /v2{collection}", sentence_of([gloss, resource, also, role]), cell.about)
        )
        if rng.random() < _WITHDRAWN_SHARE:
            note = f"Switched off, use /v2. {resource}".strip()
            documents.append(Document(f"{cell.about}.old", f"{method} /v1{collection}", note, None))
    return documents


def _choose(speaker: Speaker, row: list[_Cell], allowed: frozenset[str], n: int) -> list[_Cell]:
    chosen: list[_Cell] = []
    for cell in speaker.sample([cell for cell in row if cell.about in allowed], n):
        if not any({cell.operation.key, other.operation.key} in _INCOMPATIBLE for other in chosen):
            chosen.append(cell)
    return sorted(
        chosen,
        key=lambda cell: (cell.operation.key in _BY_NATURE_LAST) - (cell.operation.key in _BY_NATURE_FIRST),
    )


def _ask_steps(cells: list[list[_Cell]], speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    rows = speaker.sample(cells, 2 if speaker.chance(0.25) else 1)
    clauses, wanted = [], []
    for row in rows:
        chosen = _choose(speaker, row, allowed, 1 + int(speaker.rng.integers(2 if len(rows) > 1 else 3)))
        if not chosen:
            return None
        wanted += chosen
        clauses += _clauses(speaker, chosen, speaker.call(chosen[0].record, official=0.5))
    wants = frozenset(cell.about for cell in wanted)
    if len(rows) == 1 and speaker.chance(_KEYWORD_SHARE):
        noun = speaker.call(wanted[0].record, official=0.5)
        return Request(" ".join([noun, *(cell.operation.keyword for cell in wanted)]), wants)
    acts = enumerated(clauses, "and") if speaker.chance(0.5) else speaker.pick(_SEQUENCES).join(clauses)
    return Request(speaker.utter(speaker.pick(_STEP_FRAMES).format(when=speaker.pick(_TRIGGERS), acts=acts)), wants)


def _clauses(speaker: Speaker, cells: list[_Cell], noun: str) -> list[str]:
    clauses = []
    several = False
    reference = speaker.definite(noun)
    for cell in cells:
        clauses.append(fill(speaker.say(cell.operation.said), noun, reference))
        several = several or cell.operation.key == "sweep"
        reference = "each of them" if several else "it"
    return clauses


def _ask_endpoints(cells: list[list[_Cell]], speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    row = speaker.pick(cells)
    chosen = _choose(speaker, row, allowed, 2 if speaker.chance(0.25) else 1)
    if not chosen:
        return None
    noun = speaker.call(chosen[0].record, official=0.5)
    wants = frozenset(cell.about for cell in chosen)
    if speaker.chance(_KEYWORD_SHARE):
        return Request(
            " ".join([noun, *(cell.operation.keyword for cell in chosen), speaker.pick(("api", "rest"))]), wants
        )
    phrases = [speaker.say(cell.operation.said) for cell in chosen]
    again = "one of them" if "{xs}" in phrases[0] else "it"
    clauses = [fill(phrases[0], noun), *(one.format(a=again, s=noun, xs=plural(noun)) for one in phrases[1:])]
    acts = enumerated(clauses)
    return Request(speaker.utter(speaker.pick(_ENDPOINT_FRAMES).format(acts=acts)), wants)
