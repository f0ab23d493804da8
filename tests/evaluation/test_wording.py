from mtret.evaluation.wording import difference, interval, markdown_table, metric_name


def test_metric_names():
    assert [metric_name(one) for one in ("ndcg@10", "capped_recall@5", "map")] == ["nDCG@10", "capped recall@5", "MAP"]


def test_cells_of_tables():
    one = {"mean": 0.05, "ci95": [0.01, 0.09], "verdict": "WORSE"}
    assert interval(one) == "0.050 [0.010, 0.090]"
    assert difference(one) == "+0.050 [+0.010, +0.090] **WORSE**"


def test_columns_of_numbers_stand_to_the_right_and_bars_are_escaped():
    assert markdown_table(["a", "n"], [["x|y", 1], ["z", "+2"]]).splitlines() == [
        "| a | n |",
        "| --- | ---: |",
        "| x\\|y | 1 |",
        "| z | +2 |",
    ]
