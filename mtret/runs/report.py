"""`mtret report`: results that a user names, opened, called by distinct names, laid out as one table."""

from collections.abc import Mapping, Sequence
from glob import glob
from typing import Any

from mtret.errors import UserError
from mtret.evaluation import run_tables
from mtret.evaluation.query_scores import QUERIES_FILE, results_file
from mtret.evaluation.report import write_views
from mtret.evaluation.results import Results, read_results
from mtret.evaluation.run_tables import RunResults, distinct_labels
from mtret.files import AnyPath, at_home, check_writable, locate, replace_bytes, split_places
from mtret.tables import Form, to_text


def side_of(word: str) -> tuple[str, list[str]]:
    """`NAME=PLACE,PLACE` -> both, with `*` resolved."""
    name, rest = named(word)
    places = [place for part in split_places(rest) for place in matching(part)]
    if not places:
        raise UserError(f"'{word}': names no results; give the folder of some, or NAME=FOLDER")
    return name, places


def matching(place: str) -> list[str]:
    """What a place with `*`, `?` or `[...]` stands for; the place itself where something is called so, or has none."""
    if "://" in place:
        if "*" in place:
            raise UserError(f"{place}: * stands for local folders only; write these out, with commas between")
        return [place]
    local = at_home(place)
    if not set("*?[") & set(place) or local.exists():
        return [place]
    found = sorted(glob(str(local)))
    if not found:
        raise UserError(f"{place}: matches nothing")
    return found


def check_distinct(given: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raises UserError where one result is given twice: it would count as two, and differ from itself by nothing."""
    files = [results_file(place) for _, places in given for place in places]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: is given twice; give each result once")


def open_runs(words: Sequence[str]) -> tuple[list[RunResults], dict[str, list[str]]]:
    """As `compare_results` takes them, but without the scores of queries: all runs, and by name the labels of those
    that were given together."""
    given = [side_of(word) for word in words]
    check_distinct(given)
    each = [(name if len(places) == 1 else "", place) for name, places in given for place in places]
    results = [read_results(results_file(place)) for _, place in each]
    labels = labels_of(each, results)
    groups: dict[str, list[str]] = {}
    left = iter(labels)
    for name, places in given:
        own = [next(left) for _ in places]
        if name and len(own) > 1:
            if name in groups:
                raise UserError(f"two groups are called '{name}'; call one otherwise")
            groups[name] = own
    return [RunResults(label, one) for label, one in zip(labels, results, strict=True)], groups


def table_text(
    runs: Sequence[RunResults],
    form: Form,
    groups: Mapping[str, Sequence[str]],
    **asked: Any,
) -> str:
    """Several runs in one format; `asked` is what `run_tables.build` can be asked for. CSV has every metric of roles
    and tasks of every run in any case. Raises UserError where they do not belong into one table."""
    table = run_tables.build(runs, groups, **asked)
    if form == "csv":
        if asked.get("only_groups"):
            raise UserError("--only_groups: CSV has lines of runs, and no means of groups; leave it out")
        table = run_tables.long_table(runs)
    return to_text(table, form)


def rebuild_report(name: str, out: AnyPath | None) -> tuple[Results, AnyPath]:
    """Report and plot of one results file, in its folder or in `out`, where it and the scores of queries are taken
    along."""
    source = results_file(name)
    results = read_results(source)
    folder = out or source.parent
    check_writable(folder, "--out")
    queries = source.parent / QUERIES_FILE
    if results.queries and folder != source.parent and queries.exists():
        replace_bytes(folder / QUERIES_FILE, queries.read_bytes())
    if folder / "results.json" != source:
        replace_bytes(folder / "results.json", source.read_bytes())
    write_views(results, folder)
    return results, folder


def named(word: str) -> tuple[str, str]:
    """`NAME=PLACE` -> both; a place alone has no name."""
    name, sign, place = word.partition("=")
    if sign and place and "/" not in name and ("://" in place or not locate(word).exists()):
        return name, place
    return "", word


def labels_of(given: Sequence[tuple[str, str]], results: Sequence[Results]) -> list[str]:
    """What each is called: its name, or its model or folder. Raises UserError where two are called alike."""
    models = [str(each.protocol.get("model") or "model") for each in results]
    places = [str(results_file(place).parent) for _, place in given]
    found = distinct_labels(models, places)
    labels = [name or label for (name, _), label in zip(given, found, strict=True)]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"two of these are called '{twice}'; call one otherwise: NAME=FOLDER")
    return labels
