"""`mtret compare`: two results, or two sets of trainings that differ in their seed."""

from collections.abc import Sequence

from mtret.errors import UserError
from mtret.evaluation import comparison
from mtret.evaluation.comparison import Side
from mtret.evaluation.query_scores import read_query_scores
from mtret.evaluation.retrieval import PRIMARY
from mtret.files import AnyPath, check_new, check_writable, replace_json, replace_text
from mtret.runs.report import check_distinct, labels_of, side_of
from mtret.schema import to_json


def compare_results(
    words: Sequence[str],
    out: AnyPath | None,
    metric: str = PRIMARY,
    system: str = "",
    tasks: Sequence[str] = (),
    seed: int = 0,
) -> comparison.Comparison:
    """Two sides: each a results folder or file, `NAME=PLACE` where it should be called otherwise, or trainings that
    differ in their seed, `NAME=PLACE,PLACE`. A place may hold `*`. Writes compare.json and compare.md to `out`, if that
    is given.

    Raises UserError where they cannot be compared, or one of the files is there.
    """
    if out is not None:
        check_writable(out, "--out")
        for name in ("compare.json", "compare.md"):
            check_new(out / name, "--out")
    given = [side_of(word) for word in words]
    for word, (name, places) in zip(words, given, strict=True):
        if len(places) > 1 and not name:
            raise UserError(f"{word}: several runs need a name; write NAME={word}")
    check_distinct(given)
    runs = [[read_query_scores(place) for place in places] for _, places in given]
    firsts = [(name, places[0]) for name, places in given]
    labels = labels_of(firsts, [own[0].results for own in runs])
    a, b = (Side(label, own) for label, own in zip(labels, runs, strict=True))
    found = comparison.compare(a, b, metric=metric, system=system, tasks=tasks, seed=seed)
    if out is not None:
        replace_text(out / "compare.md", comparison.markdown(found))
        replace_json(out / "compare.json", to_json(found))
    return found
