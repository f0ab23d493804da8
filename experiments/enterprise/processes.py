"""Ready-made workflows and reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from collection import Collection, Document, Request, every_record, sentence_of
from english import plural
from house_operations import STEPS
from house_processes import BREAKDOWNS, METRICS, PATTERNS, Breakdown, Metric, Pattern
from lexicon import Department, Record
from voice import Speaker, fill, generator

_FLOW_FRAMES = (
    "we want {wish}", "I'd like {wish}", "is there a ready-made process if we want {wish}", "my team needs {wish}",
    "what do you have for a department that wants {wish}", "the director asks for {wish}",
)  # fmt: skip
_REPORT_FRAMES = (
    "show me {what}", "{what}", "I have to present {what}", "is there a chart of {what}",
    "the board wants to see {what}",
    "for Friday's meeting: {what}", "where can I look up {what}",
)  # fmt: skip
_CHARTS = ("Bars.", "Lines.", "Heat map.", "Single score.", "List.")
_KEYWORD_SHARE = 0.12


@dataclass(frozen=True)
class _Flow:
    department: Department
    record: Record
    pattern: Pattern

    @property
    def about(self) -> str:
        return f"{self.department.code}.{self.record.code}.{self.pattern.key}"


@dataclass(frozen=True)
class _Report:
    department: Department
    record: Record
    metric: Metric
    breakdown: Breakdown

    @property
    def about(self) -> str:
        return f"{self.department.code}.{self.record.code}.{self.metric.key}.{self.breakdown.key}"


def build_workflows(departments: Sequence[Department], seed: int, per_record: int) -> Collection:
    """Up to `per_record` flows for every kind of record."""
    flows = []
    for department, record in every_record(departments):
        possible = [pattern for pattern in PATTERNS if record.kind in pattern.kinds]
        order = generator(seed, "workflow", "offered", department.code, record.code).permutation(len(possible))
        flows += [_Flow(department, record, possible[i]) for i in sorted(order[:per_record].tolist())]
    return Collection(tuple(_flow_document(flow, seed) for flow in flows), partial(_ask_flow, flows))


def build_reports(departments: Sequence[Department], seed: int, per_record: int) -> Collection:
    """Up to `per_record` reports for every kind of record, two breakdowns of each metric."""
    reports = []
    for department, record in every_record(departments):
        possible = [metric for metric in METRICS if record.kind in metric.kinds]
        rng = generator(seed, "report", "offered", department.code, record.code)
        metrics = [possible[i] for i in sorted(rng.permutation(len(possible))[: (per_record + 1) // 2].tolist())]
        for metric in metrics:
            for i in sorted(rng.permutation(len(BREAKDOWNS))[:2].tolist()):
                reports.append(_Report(department, record, metric, BREAKDOWNS[i]))
    return Collection(tuple(_report_document(report, seed) for report in reports), partial(_ask_report, reports))


def _flow_document(flow: _Flow, seed: int) -> Document:
    rng = generator(seed, "workflow", "document", flow.about)
    house = {step.key: step.house for step in STEPS}
    steps = ", ".join(f"{house[key]} {flow.record.name}" for key in flow.pattern.steps)
    trigger = f"On {flow.pattern.trigger}:" if rng.random() < 0.7 else ""
    title = f"{flow.pattern.title}: {flow.record.name}"
    return Document(flow.about, title, sentence_of([trigger, f"{steps}."]), flow.about)


def _report_document(report: _Report, seed: int) -> Document:
    rng = generator(seed, "report", "document", report.about)
    gloss = report.metric.text if rng.random() < 0.6 else ""
    source = f"Source: u_{report.department.code}_{report.record.code}."
    title = f"{report.metric.title.format(name=report.record.name)} {report.breakdown.title}"
    chart = _CHARTS[int(rng.integers(len(_CHARTS)))]
    return Document(report.about, title, sentence_of([gloss, source, chart]), report.about)


def _ask_flow(flows: list[_Flow], speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    flow = speaker.pick(flows)
    noun = speaker.call(flow.record, official=0.45)
    wants = {flow.about}
    if speaker.chance(_KEYWORD_SHARE):
        return Request(
            f"{noun} {flow.pattern.keyword} {speaker.pick(('workflow', 'flow', 'process'))}", frozenset(wants)
        )
    wish = fill(speaker.say(flow.pattern.said), noun)
    if speaker.chance(0.25):
        other = speaker.pick([one for one in flows if one.pattern is flow.pattern and one is not flow])
        wants.add(other.about)
        wish = f"{wish}, and the same for {plural(speaker.call(other.record, official=0.45))}"
    return Request(speaker.utter(speaker.pick(_FLOW_FRAMES).format(wish=wish)), frozenset(wants))


def _same_metric(report: _Report, reports: list[_Report]) -> set[str]:
    return {one.about for one in reports if one.record is report.record and one.metric is report.metric}


def _ask_report(reports: list[_Report], speaker: Speaker, allowed: frozenset[str]) -> Request | None:
    """A request that names no breakdown is met by every report of the metric."""
    report = speaker.pick(reports)
    noun = speaker.call(report.record, official=0.4)
    broken_down = speaker.chance(0.7)
    wants = {report.about} if broken_down else _same_metric(report, reports)
    if speaker.chance(_KEYWORD_SHARE):
        words = [noun, report.metric.keyword, *([report.breakdown.keyword] if broken_down else [])]
        return Request(" ".join(words), frozenset(wants))
    what = fill(speaker.say(report.metric.said), noun)
    what = f"{what} {speaker.say(report.breakdown.said)}" if broken_down else what
    return Request(speaker.utter(speaker.pick(_REPORT_FRAMES).format(what=what)), frozenset(wants))
