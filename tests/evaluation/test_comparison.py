"""Paired differences of two results, against a bootstrap written out; what is refused; what is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtret.data.tasks import Judgements
from mtret.errors import UserError
from mtret.evaluation.comparison import OF_MODELS, Comparison, Side, markdown, role_words, summary, tables
from mtret.evaluation.comparison import compare as compare_sides
from mtret.evaluation.query_scores import QueryScores, data_sha256, read_query_scores, with_query_scores
from mtret.evaluation.results import build_results, write_results
from mtret.evaluation.retrieval import TaskOutcome, TaskScores
from mtret.evaluation.statistics import Difference, bounds, resampled_means
from mtret.tables import to_terminal

Make = Callable[..., list[TaskOutcome]]
Keep = Callable[..., QueryScores]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    def make(outcomes: list[TaskOutcome], **protocol: Any) -> QueryScores:
        folder = tmp_path / f"r{len(list(tmp_path.iterdir()))}"
        results = build_results(outcomes, protocol={"split": "test", "suite": "s"} | protocol, seed=0, resamples=100)
        write_results(with_query_scores(results, outcomes, folder), folder / "results.json")
        return read_query_scores(str(folder))

    return make


def compare(a: QueryScores, b: QueryScores, labels: tuple[str, str], **asked: Any) -> Comparison:
    return compare_sides(Side(labels[0], [a]), Side(labels[1], [b]), **asked)


def worse(outcome: TaskOutcome, by: float, system: str = "finetuned") -> TaskOutcome:
    systems = {name: dict(values) for name, values in outcome.scores.systems.items()}
    systems[system]["ndcg@10"] = np.clip(systems[system]["ndcg@10"] - by, 0, 1)
    return replace(outcome, scores=replace(outcome.scores, systems=systems))


def some(outcome: TaskOutcome, rows: list[int]) -> TaskOutcome:
    """With these queries left in."""
    systems = {
        name: {metric: value[rows] for metric, value in values.items()}
        for name, values in outcome.scores.systems.items()
    }
    kept = TaskScores(outcome.scores.query_rows[rows], outcome.scores.cutoffs, systems)
    return replace(outcome, scores=kept)


def test_differences_are_paired_and_second_minus_first(outcomes_of: Make, keep: Keep) -> None:
    first, second = outcomes_of(), outcomes_of(seed=1)
    found = compare(keep(first), keep(second), ("a", "b"), seed=5)
    for one, other in zip(first, second, strict=True):
        name = one.task.name
        values = np.stack([each.scores.systems["finetuned"]["ndcg@10"].round(6) for each in (one, other)], axis=1)
        resampled = resampled_means(values, 5, name)
        low, high = bounds(resampled[:, 1] - resampled[:, 0])
        entry = found.tasks[name]
        assert entry.n_queries == len(values) and entry.unmatched == (0, 0)
        assert entry.difference.mean == pytest.approx(float((values[:, 1] - values[:, 0]).mean()), abs=1e-6)
        assert (entry.difference.low, entry.difference.high) == pytest.approx((low, high), abs=1e-6)
    in_domain = found.roles[0]
    assert in_domain.roles == ("in_domain", "in_domain") and in_domain.tasks == ("alpha", "beta")
    means = [found.tasks[name].difference.mean for name in ("alpha", "beta")]
    assert in_domain.difference.mean == pytest.approx(np.mean(means), abs=1e-6)
    assert in_domain.n_queries == 350 and found.n_queries == 354


def test_the_words(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, gamma = outcomes_of()
    found = compare(keep([alpha, beta, gamma]), keep([worse(alpha, 0.1), worse(beta, -0.1), gamma]), ("a", "b"))
    words = {name: entry.difference.verdict for name, entry in found.tasks.items()}
    assert words == {"alpha": "WORSE", "beta": "better", "gamma": "no difference"}
    assert found.tasks["alpha"].p < 1e-4 > found.tasks["beta"].p and found.tasks["gamma"].p == 1  # gamma: four queries
    assert summary(found) == [
        "`b` against `a`: better on 1, no difference on 1, WORSE on 1 of 3 tasks.",
        "354 queries were evaluated in both.",
        OF_MODELS,
    ]
    same = compare(keep([alpha]), keep([alpha]), ("a", "a (2)"))
    assert same.tasks["alpha"].difference == Difference(0, 0, 0, "no difference")


def test_another_system_or_metric_can_be_asked_for(outcomes_of: Make, keep: Keep) -> None:
    alpha = outcomes_of()[0]
    a, b = keep([alpha]), keep([worse(alpha, 0.1, "base")])
    assert compare(a, b, ("a", "b")).tasks["alpha"].difference.mean == 0
    assert compare(a, b, ("a", "b"), system="base").tasks["alpha"].difference.mean < -0.09
    assert compare(a, b, ("a", "b"), system="base", metric="mrr@10").tasks["alpha"].difference.mean == 0
    with pytest.raises(
        UserError, match="--system: a has no system 'other', only bm25, base, hybrid_ranks, hybrid, finet"
    ):
        compare(a, b, ("a", "b"), system="other")


def test_only_queries_that_were_judged_in_both_count(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, gamma = outcomes_of()
    found = compare(
        keep([some(alpha, [0, 1, 2, 3, 4, 5, 6]), gamma]),
        keep([beta, some(alpha, [2, 3, 4, 5, 6, 8, 9, 10])]),
        ("a", "b"),
    )
    entry = found.tasks["alpha"]
    assert entry.n_queries == 5 and entry.unmatched == (2, 3)
    assert entry.difference.mean == 0  # those are the same queries in both
    assert found.only == {"a": ("gamma",), "b": ("beta",)}
    assert summary(found)[1:] == [
        "5 queries were evaluated in both; 2 others of `a` and 3 of `b` are left out.",
        "In `a` only, and left out: gamma.",
        "In `b` only, and left out: beta.",
        OF_MODELS,
    ]


def test_what_does_not_belong_together_is_refused_and_named(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, gamma = outcomes_of()
    changed = replace(beta.task, document_texts=("new", *beta.task.document_texts[1:]))
    other = replace(beta, task=changed, data_sha256=data_sha256(changed, "test"))
    whole = keep([alpha, beta, gamma])
    for second, message in (
        (keep([alpha], split="dev"), "a was evaluated on the test split, b on the dev split"),
        (
            keep([alpha, other], suite="t"),
            r"not evaluated on the same data in a \(suite s\) and b \(suite t\): beta; .* --tasks=alpha$",
        ),
    ):
        with pytest.raises(UserError, match=message):
            compare(whole, second, ("a", "b"))
    assert set(compare(whole, keep([alpha, other]), ("a", "b"), tasks=("alpha",)).tasks) == {"alpha"}
    with pytest.raises(UserError, match="share no task"):
        compare(keep([alpha]), keep([gamma]), ("a", "b"))
    with pytest.raises(UserError, match="share no query"):
        compare(keep([some(alpha, [0, 1])]), keep([some(alpha, [2, 3])]), ("a", "b"))
    with pytest.raises(UserError, match="--tasks: b has no task 'beta'"):
        compare(whole, keep([alpha]), ("a", "b"), tasks=("beta",))


def test_a_task_that_is_not_the_same_to_both_models_stands_apart(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, gamma = outcomes_of()
    found = compare(keep([alpha, beta, gamma]), keep([alpha, replace(beta, role="zero_shot"), gamma]), ("a", "b"))
    assert [(role_words(one.roles), one.tasks) for one in found.roles] == [
        ("In-domain", ("alpha",)),
        ("In-domain, then zero-shot", ("beta",)),
        ("Zero-shot", ("gamma",)),
    ]
    untrained = compare(keep([alpha]), keep([replace(alpha, role=None)]), ("a", "b"))
    assert role_words(untrained.roles[0].roles) == "In-domain"


def test_tables_show_every_task_and_role(outcomes_of: Make, keep: Keep) -> None:
    from rich.console import Console

    found = compare(keep(outcomes_of()), keep(outcomes_of(seed=1)), ("runs/[a]", "b"))
    text = markdown(found)
    one = found.tasks["alpha"]
    assert f"| alpha | In-domain | 200 | {one.a.interval.mean:.3f} | " in text
    assert "| In-domain | 2 | 350 |" in text and text.startswith("# `b` against `runs/[a]`\n")
    page = Console(width=120)
    with page.capture() as capture:
        page.print(*map(to_terminal, tables(found)))
    assert "runs/[a]" in capture.get() and f"{one.difference.mean:+.3f}" in capture.get()


def test_several_trainings_of_a_side_count_as_their_mean_and_widen_the_intervals(outcomes_of: Make, keep: Keep) -> None:
    alpha = outcomes_of()[0]
    runs = [keep([worse(alpha, by)], weights_sha256=str(by)) for by in (0.0, 0.02, 0.1, 0.16)]
    found = compare_sides(Side("a", runs[:2]), Side("b", runs[2:]))
    entry = found.tasks["alpha"]
    values = np.stack([run.tasks["alpha"].scores["ndcg@10", "finetuned"] for run in runs], axis=1)
    means = values.mean(axis=0)
    assert entry.a.runs == pytest.approx(means[:2], abs=1e-6)
    assert entry.b.interval.mean == pytest.approx(means[2:].mean(), abs=1e-6)
    assert entry.difference.mean == pytest.approx(means[2:].mean() - means[:2].mean(), abs=1e-6)
    # Two degrees of freedom: 4.30 standard errors of the trainings, beside which the queries' own hardly count.
    pooled = np.sqrt((np.var(means[:2], ddof=1) + np.var(means[2:], ddof=1)) / 2)
    _, low, high, _ = entry.difference
    assert high - low == pytest.approx(2 * 4.30 * pooled, rel=0.15)
    assert entry.difference.verdict == "no difference"
    alone = compare_sides(Side("a", runs[:1]), Side("b", runs[2:3])).tasks["alpha"].difference
    assert alone.verdict == "WORSE"
    assert "over queries and over trainings: 2 of `a`, 2 of `b`." in summary(found)[-1]
    assert "the same on both sides; of so few" in summary(found)[-1]
    unequal = summary(compare_sides(Side("a", runs[:1]), Side("b", runs[1:])))[-1]
    assert "`a`, a single one, is taken to spread as the others do" in unequal
    assert "hardly known" in summary(found)[-1] and summary(found)[1] == "200 queries were evaluated in all."
    assert f" ± {np.std(means[2:], ddof=1):.3f} |" in markdown(found)


def test_one_training_is_taken_to_spread_as_the_others_do(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, _ = outcomes_of()
    seeds = [keep([worse(alpha, by), worse(beta, by)]) for by in (0.0, 0.01, 0.02, 0.03)]
    found = compare_sides(Side("a", seeds[:1]), Side("b", seeds[1:]))
    _, low, high, _ = found.roles[0].difference
    spread = np.std(found.roles[0].b.runs, ddof=1)
    # What a training does to both tasks it does to their mean: the trainings' part does not shrink with more tasks.
    assert high - low > 2 * 4.30 * spread * np.sqrt(1 + 1 / 3) * 0.85


def test_what_is_no_set_of_seeds_is_refused(outcomes_of: Make, keep: Keep) -> None:
    alpha = outcomes_of()[0]
    one, twin, other = (keep([alpha], weights_sha256=sha, model=sha) for sha in ("x", "x", "y"))
    with pytest.raises(UserError, match="a: two of its runs are the same model"):
        compare_sides(Side("a", [one, twin]), Side("b", [other]))
    other_seed = keep([alpha], weights_sha256="x", model="x", training_seed=1)
    assert compare_sides(Side("a", [one, other_seed]), Side("b", [other])).tasks["alpha"].difference.mean == 0
    apart = keep([alpha], weights_sha256="z", model="z", training_sha256="c")
    with pytest.raises(UserError, match="a: its runs are not seeds of one configuration: x / z; compare"):
        compare_sides(Side("a", [one, apart]), Side("b", [other]))
    moved = keep([replace(alpha, role="zero_shot")], model="z")
    with pytest.raises(UserError, match="alpha is in-domain and zero-shot to runs of a, which are therefore not"):
        compare_sides(Side("a", [one, moved]), Side("b", [other]))
    with pytest.raises(UserError, match=r"a \(x\) was evaluated on the test split, b on the dev split"):
        compare_sides(Side("a", [one, other]), Side("b", [keep([alpha], split="dev")]))
    with pytest.raises(UserError, match=r"--tasks: a \(x\) has no task 'gamma'"):
        compare_sides(Side("a", [one, other]), Side("b", [other]), tasks=["gamma"])


def test_only_queries_of_all_runs_count(outcomes_of: Make, keep: Keep) -> None:
    alpha = outcomes_of()[0]
    runs = [keep([some(alpha, rows)]) for rows in ([0, 1, 2, 3, 4], [5, 4, 3, 2, 1], [1, 2, 3, 9])]
    found = compare_sides(Side("a", runs[:2]), Side("b", runs[2:])).tasks["alpha"]
    assert found.n_queries == 3 and found.unmatched == (3, 1) and found.difference.mean == 0


def test_a_task_that_one_run_of_a_side_lacks_is_named(outcomes_of: Make, keep: Keep) -> None:
    alpha, beta, gamma = outcomes_of()
    runs = [keep(each) for each in ([alpha, beta, gamma], [alpha, gamma], [alpha, beta, some(gamma, [0])])]
    found = compare_sides(Side("a", runs[:2]), Side("b", runs[2:]))
    assert found.not_in_all == ("beta",)
    assert "Not in every result, or without a query that is in all, and left out: beta." in summary(found)
    disjoint = compare(keep([alpha, some(gamma, [1])]), runs[2], ("a", "b"))
    assert disjoint.not_in_all == ("gamma",) and disjoint.only == {"a": (), "b": ("beta",)}


def test_sides_of_different_size_say_that_each_has_its_own_spread(outcomes_of: Make, keep: Keep) -> None:
    runs = [keep([worse(outcomes_of()[0], by)]) for by in (0.0, 0.02, 0.03, 0.05, 0.06)]
    assert "of each side for itself" in summary(compare_sides(Side("a", runs[:2]), Side("b", runs[2:])))[-1]


def test_judgements_decide_too(outcomes_of: Make) -> None:
    task = outcomes_of()[0].task
    graded = Judgements.from_pairs(*(getattr(task.splits["test"], name) for name in ("queries", "documents", "scores")))
    assert data_sha256(replace(task, splits={"test": graded}), "test") == data_sha256(task, "test")
