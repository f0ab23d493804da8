"""Writes the quickstart's table into the README, from results.json beside this file.

After a change that moves the numbers: make quickstart, copy runs/quickstart/test/results.json here, run this.
"""

import re
from pathlib import Path

from mtret.evaluation.report import role_tables
from mtret.evaluation.results import read_results

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- quickstart: [^>]*-->\n)(.*?)(<!-- /quickstart -->)", re.DOTALL)


def with_table(readme: str) -> str:
    """The README's text with the table as it has to be."""
    results = read_results(HERE / "results.json")
    table = role_tables(results.roles, results.systems).split("\n\n")[0]  # of two the first
    filled, count = BLOCK.subn(lambda match: f"{match[1]}\n{table}\n\n{match[3]}", readme)
    if count != 1:
        raise ValueError(f"{README}: needs one block between <!-- quickstart: ... --> and <!-- /quickstart -->")
    return filled


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
