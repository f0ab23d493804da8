"""What the runs of screen.py found: every factor's effect, beside what another seed does.

    python experiments/009_what_wins/effects.py RUNS [--yardstick=RUNS]

nDCG@10 on samples of the development splits: means over the tasks that were trained on, that were left out, and each
guard; of the encoder alone and with BM25. An effect is the mean of the runs in which a factor is up less that of the
others; its standard error follows from the standard deviation of a run, that of the yardstick's seeds.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np

from mtret.evaluation.results import Results, read_results
from mtret.tables import Table, to_markdown

SCREEN = runpy.run_path(str(Path(__file__).with_name("screen.py")))
SYSTEMS = ("base", "hybrid", "finetuned", "finetuned_hybrid")


def groups() -> dict[str, tuple[str, ...]]:
    trained = tuple(name for name in SCREEN["EVALUATED"] if name in SCREEN["TRAINED"])
    guards = {name: (name,) for name in SCREEN["GUARDS"]}
    return {"trained on": trained, "left out": SCREEN["HELD_OUT"], **guards}


def means(results: Results, system: str) -> list[float]:
    return [float(np.mean([results.tasks[name].primary(system).mean for name in names])) for names in groups().values()]


def read(folder: Path) -> dict[str, Results]:
    """By run."""
    found = sorted(folder.glob("*/seed*/sample_dev/results.json"))
    return {str(path.parent.parent.relative_to(folder)): read_results(path) for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--yardstick", type=Path)
    given = parser.parse_args()
    found = read(given.runs)
    columns = [f"{name}{more}" for more in ("", " + BM25") for name in groups()]
    first = next(iter(found.values()))
    rows = [["base", *means(first, "base"), *means(first, "hybrid")]]
    rows += [[name, *means(each, "finetuned"), *means(each, "finetuned_hybrid")] for name, each in found.items()]
    table = [[row[0], *(f"{value:.4f}" for value in row[1:])] for row in rows]
    print(to_markdown(Table(["", *columns], [table[:1], table[1:]])))
    spread = None
    if given.yardstick:
        seeds = [
            [*means(each, "finetuned"), *means(each, "finetuned_hybrid")] for each in read(given.yardstick).values()
        ]
        spread = np.std(seeds, axis=0, ddof=1)
        print("\nstandard deviation of a seed:", ", ".join(f"{value:.4f}" for value in spread))
    design = {f"run{number:02d}/seed0": row for number, row in enumerate(SCREEN["design"]())}
    if not design.keys() <= found.keys():
        return
    values = np.array([row[1:] for row in rows[1:] if row[0] in design], float)
    signs = np.array([design[row[0]] for row in rows[1:] if row[0] in design], bool)
    effects = []
    for place, name in enumerate(SCREEN["FACTORS"]):
        effect = values[signs[:, place]].mean(axis=0) - values[~signs[:, place]].mean(axis=0)
        error = spread * 2 / len(values) ** 0.5 if spread is not None else np.full(len(effect), np.inf)
        stars = ["*" if abs(one) > 2 * two else "" for one, two in zip(effect, error, strict=True)]
        effects.append([name, *(f"{one:+.4f}{star}" for one, star in zip(effect, stars, strict=True))])
    print()
    print(to_markdown(Table(["up", *columns], [effects], "", ["*: more than two standard errors."])))


if __name__ == "__main__":
    main()
