"""Results: means over queries and roles with their intervals, made of scores; as a file, schema `mtret.results/3`,
checked when read, written atomically. See docs/results.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64

from mtret.errors import UserError
from mtret.evaluation import statistics
from mtret.evaluation.retrieval import BASE, FINETUNED, PRIMARY, ROLES, PooledOutcome, TaskOutcome, TaskScores
from mtret.evaluation.statistics import Difference, Interval, Verdict
from mtret.files import AnyPath, replace_json
from mtret.names import results_now
from mtret.schema import MismatchError, MissingKeyError, Reading, build

Role = Literal["in_domain", "cross_domain", "zero_shot", "all"]
SCHEMA = "mtret.results/3"
NAMED_DROPPED_QUERIES = 20
SHOWN = 60  # characters of a wrong value in an error


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What every entry has."""

    n_queries: int
    systems: Mapping[str, Mapping[str, Interval]]  # by system, then metric
    # Of a system to each of those that stand before it, in the primary metric.
    differences: Mapping[str, Mapping[str, Difference]]

    def primary(self, system: str) -> Interval:
        """A system's score in the primary metric."""
        return self.systems[system][PRIMARY]

    def difference(self, system: str, other: str) -> Difference | None:
        """Of one system to another, paired by query; None where it does not stand here."""
        return self.differences.get(system, {}).get(other)


@dataclass(frozen=True, kw_only=True)
class RoleResults(Scores):
    """Means over a role's tasks."""

    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TaskResults(Scores):
    """Of a task over its own documents."""

    family: str
    domain: str
    role: Role
    n_documents: int
    n_dropped: int
    dropped_queries: tuple[str, ...]  # the first of them
    seen_document_share: float | None
    cutoffs: tuple[int, ...]
    scann: Mapping[str, Any] | None
    images: bool = False
    data_sha256: str | None = None
    n_with_copies: int = 0
    fusion: Mapping[str, float] | None = None  # own weights of hybrids, by encoder


@dataclass(frozen=True, kw_only=True)
class PooledTaskResults(Scores):
    """Of a task over the documents of all."""

    role: Role


@dataclass(frozen=True, kw_only=True)
class PooledResults:
    """Over one index of all documents."""

    n_documents: int
    scann: Mapping[str, Any] | None
    tasks: Mapping[str, PooledTaskResults]
    roles: Mapping[str, RoleResults]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals were made."""

    seed: int
    resamples: int
    level: float


@dataclass(frozen=True, kw_only=True)
class QueriesFile:
    """The file of every query's scores."""

    file: str
    sha256: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DevScores:
    """Of a form, on the dev samples of the mixture."""

    mean: float
    tasks: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class BaseForm:
    """What is put before the base's texts, and what it scores so."""

    query_template: str
    document_template: str
    dev: DevScores | None = None  # where there was a choice
    split: str | None = None
    tasks: Mapping[str, float] | None = None  # on that split, where it was asked for


@dataclass(frozen=True, kw_only=True)
class BaseForms:
    """The forms of the base, and which one it was evaluated in."""

    chosen: str
    why: str
    forms: Mapping[str, BaseForm]


@dataclass(frozen=True, kw_only=True)
class Results:
    """A results file."""

    schema: str
    protocol: Mapping[str, Any]
    bootstrap: Bootstrap
    systems: tuple[str, ...]
    mixture: Mapping[str, tuple[str, ...]] | None
    tasks: Mapping[str, TaskResults]
    roles: Mapping[str, RoleResults]
    pooled: PooledResults | None
    skipped: Mapping[str, str]  # why, by task
    dimensions: Mapping[str, Mapping[str, float]] | None = None  # by their number, then task; only where asked for
    queries: QueriesFile | None = None
    base_forms: BaseForms | None = None

    @property
    def encoder(self) -> str:
        """The system that the results are about: `finetuned`; `base` where mtret did not train what was evaluated."""
        return next((each for each in (FINETUNED, BASE, *self.systems[-1:]) if each in self.systems), "")


@dataclass(frozen=True, eq=False)
class _Resampled:
    """Means of one task or of a role: over the queries, and over every resample of them."""

    n_queries: int
    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    means: Float64[np.ndarray, "s c"]
    resampled: Float64[np.ndarray, "r s c"] = field(repr=False)


def build_results(
    outcomes: Sequence[TaskOutcome],
    *,
    protocol: Mapping[str, Any],
    seed: int,
    resamples: int = statistics.RESAMPLES,
    mixture: Mapping[str, Any] | None = None,
    pooled: PooledOutcome | None = None,
    skipped: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The results dictionary (schema `mtret.results/3`, see docs/results.md).

    Args:
      outcomes: one per evaluated task, all with the same systems; a task of images may have one of them alone.
      protocol: what the numbers depend on; kept as it is.
      seed: of the bootstrap.
      mixture: what the model was trained on, None for a base encoder.
      pooled: the scores over the pooled index.
      skipped: tasks that were not evaluated, and why.
    """
    roles = {outcome.task.name: outcome.role or "all" for outcome in outcomes}
    own = {outcome.task.name: _resample(outcome.task.name, outcome.scores, seed, resamples) for outcome in outcomes}
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol": dict(protocol),
        "bootstrap": {"seed": seed, "resamples": resamples, "level": statistics.LEVEL},
        "systems": max((list(outcome.scores.systems) for outcome in outcomes), key=len, default=[]),
        "mixture": None if mixture is None else dict(mixture),
        "tasks": {outcome.task.name: _task_entry(outcome, own[outcome.task.name]) for outcome in outcomes},
        "roles": _by_role(own, roles),
        "pooled": None,
        "skipped": dict(skipped or {}),
    }
    if pooled is not None:
        over_pool = {name: _resample(name, scores, seed, resamples) for name, scores in pooled.scores.items()}
        results["pooled"] = {
            "n_documents": pooled.n_documents,
            "scann": None if pooled.scann is None else dict(pooled.scann),
            "tasks": {name: {"role": roles[name], **_entry(one)} for name, one in over_pool.items()},
            "roles": _by_role(over_pool, roles),
        }
    return results


def _resample(name: str, scores: TaskScores, seed: int, resamples: int) -> _Resampled:
    systems, names = tuple(scores.systems), tuple(next(iter(scores.systems.values())))
    values = np.stack([scores.systems[system][metric] for system in systems for metric in names], axis=1)
    shape = (len(systems), len(names))
    means = statistics.resampled_means(values, seed, name, resamples)
    return _Resampled(len(values), systems, names, values.mean(axis=0).reshape(shape), means.reshape(-1, *shape))


def _by_role(tasks: Mapping[str, _Resampled], roles: Mapping[str, str]) -> dict[str, Any]:
    """Macro averages: every task counts the same, however many queries it has. Only metrics that all its tasks have.

    Tasks that some systems cannot read are left out: those systems' means would be over other tasks.
    """
    entries = {}
    systems = max((one.systems for one in tasks.values()), key=len, default=())
    for role in ROLES:
        members = {name: one for name, one in tasks.items() if roles[name] == role and one.systems == systems}
        if not members:
            continue
        first = next(iter(members.values()))
        common = tuple(name for name in first.metrics if all(name in one.metrics for one in members.values()))
        columns = [[one.metrics.index(name) for name in common] for one in members.values()]
        merged = _Resampled(
            sum(one.n_queries for one in members.values()),
            first.systems,
            common,
            np.mean([one.means[:, c] for one, c in zip(members.values(), columns, strict=True)], axis=0),
            np.mean([one.resampled[:, :, c] for one, c in zip(members.values(), columns, strict=True)], axis=0),
        )
        entries[role] = {"tasks": list(members), **_entry(merged)}
    return entries


def _task_entry(outcome: TaskOutcome, scores: _Resampled) -> dict[str, Any]:
    card = outcome.task.card
    return {
        "family": card.family,
        "domain": card.domain,
        "images": outcome.task.images is not None,
        "role": outcome.role or "all",
        "data_sha256": outcome.data_sha256,
        "n_documents": len(outcome.task.parent_rows),
        "n_with_copies": outcome.n_with_copies,
        "n_dropped": len(outcome.dropped_queries),
        "dropped_queries": list(outcome.dropped_queries[:NAMED_DROPPED_QUERIES]),
        "seen_document_share": outcome.seen_document_share,
        "cutoffs": list(outcome.scores.cutoffs),
        **_entry(scores),
        "scann": None if outcome.scann is None else dict(outcome.scann),
        "fusion": None if outcome.fusion is None else dict(outcome.fusion),
    }


def _entry(scores: _Resampled) -> dict[str, Any]:
    low, high = statistics.bounds(scores.resampled)
    systems = {
        system: {
            metric: statistics.rounded(scores.means[s, c], low[s, c], high[s, c]).as_json()
            for c, metric in enumerate(scores.metrics)
        }
        for s, system in enumerate(scores.systems)
    }
    differences = {system: _differences(scores, s) for s, system in enumerate(scores.systems) if s}
    return {"n_queries": scores.n_queries, "systems": systems, "differences": differences}


def _differences(scores: _Resampled, place: int) -> dict[str, Any]:
    """Of the system in this place to each of those before it."""
    primary = scores.metrics.index(PRIMARY)
    means, resampled = scores.means[:, primary], scores.resampled[:, :, primary]
    low, high = statistics.bounds(resampled[:, place : place + 1] - resampled[:, :place])
    gains = means[place] - means[:place]
    return {
        other: {"metric": PRIMARY, **statistics.paired(gains[s], low[s], high[s], scores.n_queries).as_json()}
        for s, other in enumerate(scores.systems[:place])
    }


def parse_results(raw: Any, source: str = "results") -> Results:
    """Raises UserError naming the first path that is not of the schema. `source` is what the message calls the file."""
    raw = results_now(raw)
    try:
        if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
            raise MismatchError("schema", f"must be '{SCHEMA}'")
        results: Results = build(Results, raw, how=READING)
        _check_systems(results)
    except MismatchError as error:
        raise UserError(f"{source}: {error.path}: {error.shown(SHOWN)}; write it with `mtret evaluate`") from None
    return results


def read_results(path: AnyPath) -> Results:
    """A checked results file. Raises UserError where it is missing, not JSON, or not of the schema."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `mtret evaluate`") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); write it with `mtret evaluate`") from None
    return parse_results(raw, str(path))


def write_results(raw: Mapping[str, Any], path: AnyPath) -> Results:
    """Checks and writes, all or nothing."""
    results = parse_results(raw, str(path))
    replace_json(path, raw)
    return results


def _interval(value: Any, path: str) -> Interval:
    ci95 = value.get("ci95") if isinstance(value, Mapping) else None
    numbers = [value.get("mean"), *ci95] if isinstance(ci95, list) else []
    if len(numbers) != 3 or any(not isinstance(one, int | float) or isinstance(one, bool) for one in numbers):
        raise MismatchError(path, "must be a mean and two bounds ci95", value)
    return Interval(*map(float, numbers))


def _difference(value: Any, path: str) -> Difference:
    shown = _interval(value, path)
    for key, words in (("metric", (PRIMARY,)), ("verdict", get_args(Verdict))):
        if value.get(key) not in words:
            raise MismatchError(f"{path}.{key}", f"must be one of {', '.join(words)}", value.get(key))
    return Difference(*shown, value["verdict"])


READING = Reading(more_keys=True, readers={Interval: _interval, Difference: _difference})


def _check_systems(results: Results) -> None:
    """Every entry has the file's systems with the primary metric, and differences of a system to all before it: those
    of the last at least, which is all that older files have. A task of images may have one of them alone."""
    groups: dict[str, Mapping[str, Scores]] = {"tasks": results.tasks, "roles": results.roles}
    if results.pooled is not None:
        groups |= {"pooled.tasks": results.pooled.tasks, "pooled.roles": results.pooled.roles}
    seen = {name for name, task in results.tasks.items() if task.images}
    for group, entries in groups.items():
        for name, entry in entries.items():
            path, every = f"{group}.{name}", results.systems
            systems = (*entry.systems,) if name in seen and len(entry.systems) == 1 else every
            if (*entry.systems,) != systems or not {*systems} <= {*every}:
                raise MismatchError(f"{path}.systems", f"must be {', '.join(every)}")
            for system in dict.fromkeys([*entry.differences, *systems[1:][-1:]]):
                before = systems[: systems.index(system)] if system in systems else ()
                if (*entry.differences.get(system, {}),) != before:
                    raise MismatchError(f"{path}.differences.{system}", f"must be {', '.join(before)}")
            for system, metrics in entry.systems.items():
                if PRIMARY not in metrics:
                    raise MissingKeyError(f"{path}.systems.{system}.{PRIMARY}", "is missing")
    for role, entry in results.roles.items():
        for name in entry.tasks:
            if name not in results.tasks:
                raise MismatchError(f"roles.{role}.tasks", f"'{name}' is not a task of the file")
