from mtret.evaluation.statistics import Difference
from mtret.evaluation.wording import count, counts, difference, interval, metric_name, some


def test_metric_names():
    assert [metric_name(one) for one in ("ndcg@10", "capped_recall@5", "map")] == ["nDCG@10", "capped recall@5", "MAP"]


def test_cells_of_tables():
    one = Difference(0.05, 0.01, 0.09, "WORSE")
    assert interval(one) == "[0.010, 0.090]" and interval(one, "+") == "[+0.010, +0.090]"
    assert difference(one) == "+0.050 [+0.010, +0.090] **WORSE**"


def test_what_is_counted():
    assert [count(n, "task") for n in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
    assert count(2, "query", "queries") == "2 queries"
    assert counts(["WORSE", "better", "WORSE"]) == "better on 1, WORSE on 2"
    assert counts(["WORSE", "no difference"], markdown=True) == "no difference on 1, **WORSE** on 1"
    assert some("abcdefghij").endswith("i, j") and some("abcdefghijkl").endswith("i, j and 2 more")
