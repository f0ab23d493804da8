"""Do the tests notice when the code is wrong? Thirty mutants, drawn by seed from cosmic-ray's list, each tried.

    python experiments/mutants/mutants.py draw                  # mutants.json; needs: pip install cosmic-ray==8.7.0
    python experiments/mutants/mutants.py reach --tree=COPY     # which tests reach which: reach.json, not committed
    python experiments/mutants/mutants.py try --tree=COPY       # results.json
    python experiments/mutants/mutants.py try --tree=COPY --only=12,17 --tests tests/data --out=FILE

A mutant is one changed line, addressed by its function, the line's text and its place among such lines there, so that
it can be found again after the function has moved to another file. COPY: a clean clone of this repository, which is
changed and put back.

`draw` gives every room of the library one mutant at least, the others by its share of the list. Annotations are left
out: a changed one either does nothing or ends every import. So is what does not compile.

`reach` marks the thirty functions, runs the units and system tests once, and notes in which test each was called. `try`
runs for each mutant the tests that reach it, those of its own test file first, and stops at the first failure. A
fixture is reached in the test that asks for it first, which runs again here and asks for it again.
"""

# pyright: reportMissingImports=false

import argparse
import ast
import collections
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIST, REACH, RESULTS = (HERE / name for name in ("mutants.json", "reach.json", "results.json"))
COUNT, SEED = 30, 20261127
LIMIT_S = 600  # for the tests of one mutant in one lane
NONE_CHOSEN = 5  # pytest's exit code
FOUNDATION = "the rest"  # files at the top of the library


@dataclass(frozen=True)
class Mutant:
    """A line of a function that is replaced by another; an empty one is deleted."""

    number: int
    room: str
    file: str
    function: str
    operator: str
    line: str
    place: int  # among the lines of the function that read the same
    mutated: str


def functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Qualified name, first and last line (from 1) of every function, the innermost last."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if isinstance(child, ast.FunctionDef):
                    first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                    yield name, first, child.end_lineno or child.lineno
                yield from below(child, f"{name}.")
            else:
                yield from below(child, prefix)

    return below(ast.parse(source), "")


def room_of(file: Path) -> str:
    """A folder of the library, or one of its larger single files."""
    name = str(file.relative_to("mtret"))
    room, slash, _ = name.partition("/")
    return room if slash or name in ("losses.py", "processes.py", "run_config.py") else FOUNDATION


def candidates(file: Path) -> Iterator[dict[str, Any]]:
    """Every mutant of a file that changes one line within a function, outside annotations."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / file).read_text(encoding="utf-8")
    lines, within, noted = source.splitlines(), list(functions(source)), set(annotated(source))
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments():
            continue
        positions = [start for node in nodes for start, _ in kind().mutation_positions(node)]
        for occurrence, (line, column) in enumerate(positions):
            around = [each for each in within if each[1] <= line <= each[2]]
            if not around or (line, column) in noted:
                continue
            mutated = partial(mutate_code, source, kind(), occurrence)
            found = {"file": file, "operator": name, "occurrence": occurrence, "function": around[-1]}
            yield {**found, "lines": lines, "mutated": mutated}


def annotated(source: str) -> Iterator[tuple[int, int]]:
    """Positions within annotations."""
    for node in ast.walk(ast.parse(source)):
        found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for each in found:
            if isinstance(each, ast.AST) and isinstance(each, ast.expr):
                last = each.end_lineno or each.lineno
                for line in range(each.lineno, last + 1):
                    first = each.col_offset if line == each.lineno else 0
                    end = (each.end_col_offset or 0) if line == last else 200
                    yield from ((line, column) for column in range(first, end))


def concrete(candidate: dict[str, Any], number: int) -> Mutant | None:
    """None where it changes more lines than one, or nothing."""
    changed = candidate["mutated"]()
    if changed is None or not compiles(changed):
        return None
    lines, new = candidate["lines"], changed.splitlines()
    steps = difflib.SequenceMatcher(None, lines, new, autojunk=False).get_opcodes()
    edits = [step for step in steps if step[0] != "equal"]
    if len(edits) != 1 or edits[0][2] - edits[0][1] != 1 or edits[0][4] - edits[0][3] > 1:
        return None
    _, at, _, start, end = edits[0]
    name, first, _ = candidate["function"]
    place = [line for line in lines[first - 1 : at]].count(lines[at])
    file = candidate["file"]
    return Mutant(
        number, room_of(file), str(file), name, candidate["operator"], lines[at], place, "".join(new[start:end])
    )


def compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def draw() -> None:
    """Writes mutants.json."""
    by_room = collections.defaultdict(list)
    for path in sorted((ROOT / "mtret").rglob("*.py")):
        file = path.relative_to(ROOT)
        by_room[room_of(file)] += list(candidates(file))
    total = sum(map(len, by_room.values()))
    shares = dict.fromkeys(sorted(by_room), 1)
    while sum(shares.values()) < COUNT:  # to the room that is furthest behind its share of the list
        shares[min(shares, key=lambda room: shares[room] / len(by_room[room]))] += 1
    chance, drawn = random.Random(SEED), list[Mutant]()
    for room, count in shares.items():
        pool, found = sorted(by_room[room], key=lambda one: (one["file"], one["operator"], one["occurrence"])), 0
        chance.shuffle(pool)
        for candidate in pool:
            mutant = concrete(candidate, len(drawn))
            if found == count:
                break
            if mutant is not None:
                drawn.append(mutant)
                found += 1
    LIST.write_text(json.dumps([asdict(one) for one in drawn], indent=1) + "\n", encoding="utf-8")
    print(f"{len(drawn)} of {total:,} mutants, {len(shares)} rooms: {LIST.name}")


def drawn() -> list[Mutant]:
    return [Mutant(**each) for each in json.loads(LIST.read_text(encoding="utf-8"))]


def located(mutant: Mutant, tree: Path) -> tuple[Path, int, int] | None:
    """File, index of the line, index of the function's first line; None where the function has no such line."""
    files = sorted((tree / "mtret").rglob("*.py"), key=lambda path: str(path.relative_to(tree)) != mutant.file)
    for path in files:
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for name, first, last in functions(source):
            if name != mutant.function:
                continue
            same = [i for i in range(first - 1, last) if lines[i].strip() == mutant.line.strip()]
            if len(same) > mutant.place:
                return path, same[mutant.place], first - 1
    return None


def apply(mutant: Mutant, tree: Path) -> Path | None:
    """Changes the file in the tree; None where there is nothing to change."""
    place = located(mutant, tree)
    if place is None:
        return None
    path, at, _ = place
    lines = path.read_text(encoding="utf-8").splitlines()
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    lines[at : at + 1] = [indent + mutant.mutated.strip()] if mutant.mutated.strip() else []
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pytest(tree: Path, arguments: list[str], seconds: float | None) -> tuple[int, str]:
    """Exit code (-1: it took longer) and what was printed."""
    for folder in [*(tree / "mtret").rglob("__pycache__")]:  # a mutant may be as long as what it replaces, and as old
        shutil.rmtree(folder)
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        return -1, (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else ""
    return done.returncode, done.stdout


def reach(tree: Path, workers: int) -> None:
    """Writes reach.json: for each mutant the tests in which its function was called."""
    clean(tree)
    marks = collections.defaultdict[Path, list[tuple[int, int]]](list)
    for mutant in drawn():
        place = located(mutant, tree)
        if place is not None:
            marks[place[0]].append((place[2], mutant.number))
    folder = Path(tree.parent / f"{tree.name}-reached")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, found in marks.items():
        path.write_text(marked(path.read_text(encoding="utf-8"), found, folder), encoding="utf-8")
    try:
        by_file = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        code, said = pytest(tree, [*by_file, "-m", "not parity", "tests"], None)
        print("\n".join(said.splitlines()[-25:]), f"\nexit code {code}")
    finally:
        clean(tree)
    tests: dict[str, list[str]] = {}
    for mutant in drawn():
        notes = folder / str(mutant.number)
        raw = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
        tests[str(mutant.number)] = sorted({line.rsplit(" (", 1)[0] for line in raw if line})
    REACH.write_text(json.dumps(tests, indent=1) + "\n", encoding="utf-8")


def marked(source: str, found: list[tuple[int, int]], folder: Path) -> str:
    """The source with a line at the head of each function that notes the running test in folder/NUMBER."""
    lines = source.splitlines()
    bodies = {
        min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }
    for first, number in sorted(found, reverse=True):
        body = bodies[first].body
        at = (
            body[1]
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and body[1:]
            else body[0]
        )
        note = (
            f"import os as _os; open({str(folder / str(number))!r}, 'a').write("
            "_os.environ.get('PYTEST_CURRENT_TEST', '') + '\\n')"
        )
        lines.insert(at.lineno - 1, " " * at.col_offset + note)
    return "\n".join(lines) + "\n"


def clean(tree: Path) -> None:
    subprocess.run(["git", "checkout", "-q", "--", "mtret"], cwd=tree, check=True)


def tried(tree: Path, own: list[str], others: list[str]) -> dict[str, str | None]:
    """What became of a mutant: of the tests those of `make test` first, and of these its own test file's."""
    units, system = "not system and not parity", "system and not parity"
    for lane, marked, chosen in (
        ("make test", units, own),
        ("make test", units, others),
        ("make test-system", system, [*own, *others]),
    ):
        code, said = pytest(tree, ["-x", "-m", marked, *chosen], LIMIT_S) if chosen else (0, "")
        if code not in (0, NONE_CHOSEN):
            failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR "))]
            if code > 0 and not failed:  # pytest did not understand, or could not begin
                sys.exit(f"mutants: exit code {code}: {said[-500:]}")
            by = failed[0].split(" - ")[0] if failed else f"exit code {code}"
            return {"outcome": "stopped" if code == -1 else "caught", "lane": lane, "by": by}
    return {"outcome": "survived", "lane": None, "by": None}


def attempt(tree: Path, only: set[int], tests: list[str], out: Path) -> None:
    """Writes what became of each mutant; what `out` holds of others stays."""
    there = {one["number"]: one for one in json.loads(out.read_text(encoding="utf-8"))} if out.exists() else {}
    reached = {} if tests else json.loads(REACH.read_text(encoding="utf-8"))
    for mutant in drawn():
        if only and mutant.number not in only:
            continue
        clean(tree)
        path = apply(mutant, tree)
        began = time.monotonic()
        chosen = tests or reached[str(mutant.number)]
        own = [test for test in chosen if tests or f"/test_{Path(mutant.file).stem}.py::" in test]
        row: dict[str, Any] = {**asdict(mutant), "tests": len(chosen)}
        if path is None:
            row["outcome"] = "not there"
        elif not chosen:
            row["outcome"] = "survived"  # no test calls its function
        else:
            row |= tried(tree, own, [test for test in chosen if test not in own])
        row["seconds"] = round(time.monotonic() - began, 1)
        there[mutant.number] = row
        out.write_text(json.dumps([there[i] for i in sorted(there)], indent=1) + "\n", encoding="utf-8")
        print(json.dumps({key: row.get(key) for key in ("number", "function", "outcome", "by", "seconds")}), flush=True)
    clean(tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "reach", "try"))
    parser.add_argument("--tree", type=Path, help="a clean clone")
    parser.add_argument("--only", default="", help="numbers of mutants, with commas between")
    parser.add_argument("--tests", nargs="*", default=[], help="instead of those that reach a mutant")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "draw":
        draw()
    elif arguments.tree is None or not (arguments.tree / ".git").exists():
        parser.error("--tree: give a clean clone, which will be changed and put back")
    elif arguments.what == "reach":
        reach(arguments.tree.absolute(), arguments.workers)
    elif not (arguments.tests or REACH.exists()):
        parser.error(f"{REACH.name} is not there: `reach` writes it; or give --tests")
    else:
        attempt(
            arguments.tree.absolute(), {int(n) for n in arguments.only.split(",") if n}, arguments.tests, arguments.out
        )


if __name__ == "__main__":
    main()
