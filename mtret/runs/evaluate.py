"""A model and a suite become results: every system searches, every task gets its role, differences are tested."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from rich.console import Console

from mtret.console import say, say_once, timed
from mtret.data.formats import Suite
from mtret.data.roles import check_leakage, role_of, seen_document_share
from mtret.data.suites import content_sha256
from mtret.data.tasks import Task
from mtret.errors import UserError, nearest
from mtret.evaluation.findings import findings
from mtret.evaluation.query_scores import data_sha256, with_query_scores
from mtret.evaluation.report import terminal_tables, write_report
from mtret.evaluation.results import build_results
from mtret.evaluation.retrieval import (
    BASE,
    FINETUNED,
    PRIMARY,
    Pool,
    PooledOutcome,
    TaskOutcome,
    evaluate_task,
    pool,
    queries_with_copies,
)
from mtret.evaluation.samples import dev_samples, drawing, drawn_queries
from mtret.files import AnyPath, check_writable, locate, remove, replace_json
from mtret.index.exact import NOTHING, Rules, Run, excluded_pairs, rules_of, search, tie_order, truncate
from mtret.index.scann import ScannIndex, agreement, import_scann
from mtret.model_folder.folder import RetrievalModel, load_model
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig
from mtret.runs import sampling, session
from mtret.runs.baseline import base_of_model, forms_of_model, in_form
from mtret.runs.embedding import embed_tasks, reads, unreadable
from mtret.runs.export import load_suite_of, open_model
from mtret.runs.fusing import FEWEST_QUERIES, MOST_QUERIES, Dense, both, own_weight, systems
from mtret.runs.lexical import LexicalSearch, search_task
from mtret.runs.protocol import DEPTH, EvaluationConfig, mixture_of, protocol
from mtret.runs.tasks import mixture_tasks


@dataclass(frozen=True, eq=False)
class _Asked:
    """One task as it is evaluated: its queries less those that were trained on."""

    task: Task
    sha256: str
    rows: Int32[np.ndarray, "q"]
    dropped: tuple[str, ...]
    dev_rows: Int32[np.ndarray, "_"]  # queries that its weight of fusion is chosen by; none: the common one

    @property
    def texts(self) -> list[str]:
        return [self.task.query_texts[row] for row in self.rows]

    @property
    def dev_texts(self) -> list[str]:
        return [self.task.query_texts[row] for row in self.dev_rows]


class _Sides(NamedTuple):
    """Vectors of one task."""

    queries: Float32[np.ndarray, "q D"]
    documents: Float32[np.ndarray, "m D"]
    dev_queries: Float32[np.ndarray, "_ D"]


Vectors = Mapping[str, _Sides]  # by task, of those that the encoder can read


def evaluate(
    model: str, suite: Suite | str, config: EvaluationConfig, folder: AnyPath, console: Console, sample: str = ""
) -> dict[str, Any]:
    """Evaluates `model` on a suite, writes results.json, queries.jsonl, report.md and results.png to `folder`, and
    shows the verdict.

    Args:
      suite: or its name; empty for a model that mtret trained: that of its training.
      sample: what was sampled of the suite, in words, where it is not the whole.

    Raises UserError where model, suite or tasks are not in order, or a task's queries were trained on.
    """
    began = time.monotonic()
    cache = session.begin(console).cache
    check_writable(folder, "--out")
    if config.sample:  # a search by ScaNN of so few documents says nothing
        config = replace(config, scann=False)
    if config.scann:
        import_scann()
    read = ModelConfig(model, config.query_prompt, config.document_prompt, matmul_dtype=config.matmul_dtype)
    loaded = open_model(model, read)
    if isinstance(suite, str):
        suite = load_suite_of(loaded, suite)
    _check_dimensions(config, loaded)
    asked, skipped = _asked(suite, loaded, config)
    base = base_of_model(loaded, config.matmul_dtype, console)
    forms = forms_of_model(loaded, base, suite, cache, console)
    sampled = _sample(suite, asked, base, config, cache, console) if config.sample else None
    if sampled:
        suite, sample = sampled.suite, sampled.words
        absent = {one.task.name: "is not in the sample" for one in asked if one.task.name not in suite.tasks}
        asked, more = _asked(suite, loaded, replace(config, tasks=(), allow_leakage=True))
        skipped |= {**absent, **more}
    _say_size(asked, config, sample, console)
    encoders = {BASE: in_form(base, forms, forms["chosen"])}
    encoders |= {} if loaded.record is None else {FINETUNED: loaded}
    say_once(console, (line for each in encoders.values() for line in each.remarks))
    vectors = {name: _embed(name, each, asked, cache, console) for name, each in encoders.items()}
    with timed(console, "searching"):
        outcomes = [_outcome(one, vectors, loaded, config, cache) for one in asked]
    pooled = None
    if config.pooled:
        with timed(console, "searching the pooled index"):
            pooled = _pooled(asked, vectors, config, cache)
    how = protocol(model, suite, encoders, forms["chosen"], config, time.monotonic() - began)
    results = build_results(
        outcomes,
        protocol={"sample": sample or "none", **({"sample_sha256": sampled.sha256} if sampled else {}), **how},
        seed=config.seed,
        mixture=mixture_of(loaded),
        pooled=pooled,
        skipped=skipped,
    )
    results["base_forms"] = forms
    if config.forms:
        _score_forms(forms, base, asked, vectors[BASE], config, cache, console)
    if config.dimensions:
        with timed(console, "searching truncated vectors"):
            results["dimensions"] = _by_dimension(asked, vectors, config, loaded.encoder.similarity)
    results = with_query_scores(results, outcomes, folder)
    if sampled:
        replace_json(folder / sampling.SAMPLE_FILE, sampled.record)
    elif (left := folder / sampling.SAMPLE_FILE).exists():  # by an evaluation that is overwritten
        remove(left)
    written = write_report(results, folder)
    console.print(terminal_tables(written))
    for line in findings(written):
        say(console, line)
    return results


def _sample(
    suite: Suite,
    asked: Sequence[_Asked],
    base: RetrievalModel,
    config: EvaluationConfig,
    cache: AnyPath,
    console: Console,
) -> sampling.Sampled:
    """As the configuration asks for it: drawn here, or read from a file."""
    names = [one.task.name for one in asked]
    if not config.sample.isdigit():
        read = sampling.read_sample(locate(config.sample), suite, config.split)
        return read.only(names)
    pool = [load_model(name, ModelConfig(name, matmul_dtype=config.matmul_dtype)) for name in config.pool] or [base]
    return sampling.draw_sample(suite, names, config.split, int(config.sample), pool, cache, console)


def _say_size(asked: Sequence[_Asked], config: EvaluationConfig, sample: str, console: Console) -> None:
    queries = sum(len(one.rows) for one in asked)
    documents = sum(len(one.task.parent_rows) for one in asked)
    say(console, f"{len(asked)} tasks, {queries:,} {config.split} queries, {documents:,} documents")
    if sample:
        say(console, f"a sample of the {config.split} splits: {sample}")


def _check_dimensions(config: EvaluationConfig, loaded: RetrievalModel) -> None:
    whole = loaded.encoder.dimension
    for each in config.dimensions:
        if not 0 < each < whole:
            raise UserError(f"--dimensions: {each} is not between 0 and the {whole} dimensions of this model")


def evaluate_dev_samples(workdir: AnyPath, suite: Suite, config: RunConfig, console: Console) -> dict[str, Any] | None:
    """The verdict at the end of a training on `suite`: on the dev samples that it was watched by, and on such samples
    of the tasks that it did not see. Queries that were trained on are dropped, however many of a sample they are.
    Results in `workdir`/dev_sample; None where no task has a dev split."""
    check_writable(workdir / "dev_sample", "--workdir")
    loaded = load_model(str(workdir))
    readable = [task for task in suite.tasks.values() if reads(loaded, task)]
    trained = mixture_tasks(suite, config)
    others = [task for task in readable if task.name not in {one.name for one in trained}]
    samples = dev_samples([*trained, *others], config.dev, config.seed)
    if not samples:
        say(console, "no task has a dev split: mtret data check says what is missing")
        return None
    tasks = {name: samples[name].as_task() for name in sorted(samples)}
    hashes = {name: content_sha256(task) for name, task in tasks.items()}
    sampled = Suite(suite.folder, tasks, suite.sha256, hashes)
    words = (
        f"at most {config.dev.queries} queries a task, their gold documents and at most {config.dev.distractors} others"
    )
    settings = EvaluationConfig(pooled=False, scann=False, allow_leakage=True, matmul_dtype=config.model.matmul_dtype)
    return evaluate(str(workdir), sampled, settings, workdir / "dev_sample", console, sample=words)


def _asked(suite: Suite, loaded: RetrievalModel, config: EvaluationConfig) -> tuple[list[_Asked], dict[str, str]]:
    """The tasks to evaluate; and by name those that cannot be evaluated, with the reason."""
    reasons = unreadable(loaded, suite.tasks.values())
    for name in config.tasks:
        if name not in suite.tasks:
            raise UserError(f"--tasks: no task '{name}' in {suite.folder}.{nearest(name, suite.tasks)}")
        if name in reasons:
            raise UserError(f"--tasks: '{name}' cannot be evaluated: {reasons[name]}")
        suite.tasks[name].split(config.split)
    asked: list[_Asked] = []
    skipped: dict[str, str] = {}
    for name, task in suite.tasks.items():
        if config.split not in task.splits or (config.tasks and name not in config.tasks):
            continue
        if name in reasons:
            skipped[name] = reasons[name]
            continue
        rows, dropped = task.splits[config.split].queries, np.zeros(0, np.int32)
        if loaded.record is not None:
            dropped = check_leakage(task, config.split, loaded.record, config.allow_leakage)
        if len(dropped) == len(rows):
            skipped[name] = f"all its {len(rows)} {config.split} queries are training queries of the model"
            continue
        kept, ids = rows[~np.isin(rows, dropped)], tuple(task.query_ids[row] for row in dropped)
        asked.append(_Asked(task, suite.task_sha256[name], kept, ids, _dev_rows(task, loaded, config)))
    if not asked:
        raise UserError(f"{suite.folder}: {_nothing_to_evaluate(suite, config.split, skipped)}")
    return asked, skipped


def _dev_rows(task: Task, loaded: RetrievalModel, config: EvaluationConfig) -> Int32[np.ndarray, "_"]:
    """Dev queries that say how to fuse, less those that were trained on; never those that are evaluated."""
    none = np.zeros(0, np.int32)
    if config.split == "dev" or "dev" not in task.splits or task.images:
        return none
    rows = drawn_queries(task, "dev", MOST_QUERIES, drawing(task, 0))
    if loaded.record is not None:
        rows = rows[~np.isin(rows, check_leakage(task, "dev", loaded.record, allow_leakage=True))]
    return rows if len(rows) >= FEWEST_QUERIES else none


def _nothing_to_evaluate(suite: Suite, split: str, skipped: Mapping[str, str]) -> str:
    if skipped:
        name, reason = next(iter(skipped.items()))
        return f"no task of the {split} split can be evaluated; {name}: {reason}. Choose another split or suite"
    others = [other for other in ("dev", "test") if any(other in task.splits for task in suite.tasks.values())]
    remedy = f"; give --split={others[0]}" if others else "; add judgements of one to a task"
    return f"no task has a {split} split (qrels/{split}.tsv){remedy}"


def _score_forms(
    forms: dict[str, Any],
    base: RetrievalModel,
    asked: Sequence[_Asked],
    chosen: Vectors,
    config: EvaluationConfig,
    cache: AnyPath,
    console: Console,
) -> None:
    """Adds the score of every form of the base by task of the evaluated split."""
    for name, form in forms["forms"].items():
        vectors = chosen
        if name != forms["chosen"]:
            vectors = _embed(f"base, {name}", in_form(base, forms, name), asked, cache, console)
        form["split"] = config.split
        form["tasks"] = {
            one.task.name: round(_dense_score(one, *vectors[one.task.name][:2], config), 6)
            for one in asked
            if one.task.name in vectors
        }


def _dense_score(one: _Asked, queries: np.ndarray, documents: np.ndarray, config: EvaluationConfig) -> float:
    """The primary metric of exact search."""
    run = search(queries, documents, DEPTH, rules_of(one.task, one.rows))
    return float(evaluate_task(one.task, config.split, one.rows, {"one": run}).systems["one"][PRIMARY].mean())


def _embed(name: str, loaded: RetrievalModel, asked: Sequence[_Asked], cache: AnyPath, console: Console) -> Vectors:
    readable = [one for one in asked if reads(loaded, one.task)]
    found = embed_tasks(name, loaded, [(one.task, one.texts + one.dev_texts) for one in readable], cache, console)
    vectors = {}
    for one, sides in zip(readable, found, strict=True):
        queries, documents = map(loaded.encoder.comparable, sides)
        count = len(one.rows)
        vectors[one.task.name] = _Sides(queries[:count], documents, queries[count:])
    return vectors


def _outcome(
    one: _Asked, vectors: Mapping[str, Vectors], loaded: RetrievalModel, config: EvaluationConfig, cache: AnyPath
) -> TaskOutcome:
    """Documents that are images the evaluated model alone can read."""
    task = one.task
    rules = rules_of(task, one.rows)
    evaluated, approximate = list(vectors)[-1], None
    readers = [evaluated] if task.images else list(vectors)
    sides = {name: vectors[name][task.name][:2] for name in readers}
    dense = {name: Dense(search(*each, DEPTH, rules), *each) for name, each in sides.items()}
    if config.scann:
        run, approximate = _approximate(*sides[evaluated], dense[evaluated].run, rules)
        found = evaluate_task(task, config.split, one.rows, {"scann": run}).systems["scann"]
        approximate |= {PRIMARY: float(found[PRIMARY].mean())}
    runs, weights = {name: each.run for name, each in dense.items()}, {}
    if not task.images:
        words = search_task(task, one.sha256, config.split, one.rows, cache)
        weights = _own_weights(one, {name: vectors[name][task.name] for name in readers}, words, cache)
        runs = systems(words, dense, rules, weights)
    return TaskOutcome(
        task=task,
        fusion=weights or None,
        scores=evaluate_task(task, config.split, one.rows, runs),
        role=role_of(task, loaded.record) if loaded.record else None,
        dropped_queries=one.dropped,
        seen_document_share=seen_document_share(task, config.split, loaded.record) if loaded.record else None,
        scann=approximate,
        data_sha256=data_sha256(task, config.split),
        n_with_copies=queries_with_copies(task, config.split, one.rows),
    )


def _own_weights(one: _Asked, vectors: Mapping[str, _Sides], words: LexicalSearch, cache: AnyPath) -> dict[str, float]:
    """By encoder, where there are dev queries to choose by."""
    if not len(one.dev_rows):
        return {}
    task, rules = one.task, rules_of(one.task, one.dev_rows)
    dev = search_task(task, one.sha256, "dev", one.dev_rows, cache, words)
    found = {}
    for name, sides in vectors.items():
        queries, documents = sides.dev_queries, sides.documents
        dense = Dense(search(queries, documents, DEPTH, rules), queries, documents)
        found[name] = own_weight(both(dev, dense, rules), task.splits["dev"], one.dev_rows, rules.order)
    return found


def _by_dimension(
    asked: Sequence[_Asked], vectors: Mapping[str, Vectors], config: EvaluationConfig, similarity: str
) -> dict[str, dict[str, float]]:
    """{dimensions: {task: score}} of the evaluated model, whole and truncated (Matryoshka)."""
    of_model = vectors[list(vectors)[-1]]
    whole = next(iter(of_model.values()))[0].shape[1]
    found: dict[str, dict[str, float]] = {}
    for dimension in (whole, *config.dimensions):
        scores = {}
        for one in asked:
            queries, documents = (truncate(side, dimension, similarity) for side in of_model[one.task.name][:2])
            scores[one.task.name] = _dense_score(one, queries, documents, config)
        found[str(dimension)] = scores
    return found


def _approximate(
    queries: Float32[np.ndarray, "q D"],
    documents: Float32[np.ndarray, "m D"],
    exact: Run,
    rules: Rules,
) -> tuple[Run, dict[str, Any]]:
    """ScaNN's run of the same search, and what it cost and missed."""
    index = ScannIndex(documents, depth=DEPTH)
    another = len(rules.exclude) or rules.parents is not None  # it is tuned on what lies in it
    measured = index.tune(queries, search(queries, documents, DEPTH, Rules(rules.order)) if another else exact)
    run = index.search(queries, DEPTH, rules)
    return run, {**asdict(measured), "recall": agreement(run, exact)}


def _pooled(
    asked: Sequence[_Asked], vectors: Mapping[str, Vectors], config: EvaluationConfig, cache: AnyPath
) -> PooledOutcome:
    """Every task's queries over the documents of all."""
    pooled = pool([one.task for one in asked])
    rules = Rules(tie_order(pooled.document_ids), _pooled_exclusions(asked, pooled), pooled.parents)

    def documents() -> list[str]:
        texts = [text for one in asked for text in one.task.document_texts]
        return [texts[row] for row in pooled.kept]

    key = ["pooled", config.split]
    for one in asked:
        key += [one.sha256, *map(str, one.rows.tolist())]
    evaluated = list(vectors)[-1]
    dimension = next(iter(vectors[evaluated].values()))[0].shape[1]
    dense: dict[str, Dense] = {}
    for name, each in vectors.items():
        read = np.concatenate([np.full(len(one.task.document_ids), one.task.name in each) for one in asked])[
            pooled.kept
        ]
        if not read.any():
            continue
        sides = [each.get(one.task.name) or _unread(one, dimension) for one in asked]
        queries = np.concatenate([side.queries for side in sides])
        corpus = np.concatenate([side.documents for side in sides])[pooled.kept]
        dense[name] = Dense(_search_some(queries, corpus, read, rules), queries, corpus)
    found = {name: each.run for name, each in dense.items()}
    if BASE in dense:
        asks = [text for one in asked for text in one.texts]
        found = systems(LexicalSearch(documents, asks, rules, key, cache), dense, rules, {})
    last = dense[evaluated]
    approximate = _approximate(last.queries, last.documents, last.run, rules)[1] if config.scann else None
    scores, start = {}, 0
    for one in asked:
        stop = start + len(one.rows)
        readers = [evaluated] if one.task.images else list(found)
        runs = {name: Run(found[name].documents[start:stop], found[name].scores[start:stop]) for name in readers}
        scores[one.task.name] = evaluate_task(one.task, config.split, one.rows, runs, pooled.rows[one.task.name])
        start = stop
    return PooledOutcome(pooled.n_documents, scores, approximate)


def _search_some(
    queries: Float32[np.ndarray, "q D"],
    corpus: Float32[np.ndarray, "m D"],
    read: Bool[np.ndarray, "m"],
    rules: Rules,
) -> Run:
    """As `search`, of those documents that a system can read; the others are not there for it."""
    if read.all():
        return search(queries, corpus, DEPTH, rules)
    order, pairs, parents = rules
    rows, place = np.flatnonzero(read), np.cumsum(read) - 1
    kept = pairs[read[pairs[:, 1]]]
    kept = np.stack([kept[:, 0], place[kept[:, 1]]], axis=1).astype(np.int32)
    own = None if parents is None else place[parents[rows]].astype(np.int32)
    own_order = place[order[read[order]]].astype(np.int32)
    run = search(queries, corpus[rows], DEPTH, Rules(own_order, kept, own))
    found = np.where(run.documents == NOTHING, NOTHING, rows[run.documents]).astype(np.int32)
    return Run(found, run.scores)


def _unread(one: _Asked, dimension: int) -> _Sides:
    """In place of a task's vectors that an encoder cannot make."""
    sizes = len(one.rows), len(one.task.document_ids), 0
    return _Sides(*(np.zeros((size, dimension), np.float32) for size in sizes))


def _pooled_exclusions(asked: Sequence[_Asked], pooled: Pool) -> Int32[np.ndarray, "n 2"]:
    pairs, start = [], 0
    for one in asked:
        own = excluded_pairs(one.task.exclude, one.rows)
        pairs.append(np.stack([own[:, 0] + start, pooled.rows[one.task.name][own[:, 1]]], axis=1))
        start += len(one.rows)
    return np.concatenate(pairs).astype(np.int32)
