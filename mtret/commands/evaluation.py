"""`mtret evaluate` and `search`."""

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from mtret.commands.common import PROMPTS, Flags, console, define_model, define_prompts, next_line, required
from mtret.data.json_objects import half_a_pair
from mtret.errors import UserError, nearest_folder


def define_evaluate(values: Flags) -> None:
    define_model(values)
    values.text("suite", "a folder of task folders, 'enterprise', or tfds:NAME; that of the training if not given")
    values.choice("split", "the split to evaluate on; test is asked for by name", ["dev", "test"], "dev")
    values.names("tasks", "names; all of the suite that have the split if none is given")
    values.text(
        "sample",
        "in minutes: at most so many queries of each task, over their gold documents and a few hundred others that are "
        "the same for every model; or the sample.json of such an evaluation, to do it alike",
    )
    values.places(
        "pool", "with --sample=NUMBER: encoders that find the other documents, beside BM25 (default: the model's base)"
    )
    values.text(
        "out",
        "folder of the results, which must hold none (default: MODEL/SPLIT, with --sample MODEL/sample_SPLIT, "
        "overwritten)",
    )
    values.switch("pooled", "also search one index over all tasks' documents", default=True)
    values.switch("scann", "also search by ScaNN, with its recall against exact search", default=True)
    values.switch("allow_leakage", "evaluate though more than 1% of a task's queries were trained on")
    values.choice("matmul_dtype", "operand type of matrix products", ["float32", "bfloat16"], "float32")
    define_prompts(values)
    values.switch(
        "forms",
        "also evaluate the base in its other forms: with published prompts, bare, the query's prompt on both sides",
    )
    values.names("dimensions", "also evaluate vectors truncated to their first dimensions, e.g. 256,128,64")
    values.whole("seed", "of the bootstrap", 0, least=0)


def evaluate(values: Flags) -> None:
    from mtret.files import locate, reaching

    model, suite = required(values, "model"), values["suite"].value or ""
    out, place = values["out"].value, locate(model)
    with reaching(place):
        is_folder = place.is_dir()
    if not out and not is_folder:
        close = nearest_folder(model)
        raise UserError(f"--out is needed, since '{model}' is not a folder here.{close} It is the {values['out'].help}")
    from mtret.runs.evaluate import EvaluationConfig, evaluate

    sample, pool = values["sample"].value or "", tuple(values["pool"].value or ())
    if sample.isdigit() and int(sample) == 0:
        raise UserError("--sample=0: is no query; leave it out to evaluate all")
    if pool and not sample.isdigit():
        raise UserError("--pool: says what a sample is drawn from; give --sample=NUMBER with it")
    names = ("split", "pooled", "scann", "allow_leakage", "matmul_dtype", "seed", "forms", *PROMPTS)
    given: dict[str, Any] = {name: values[name].value for name in names}
    dimensions: Any = values["dimensions"].value or ()
    if any(not (text.isascii() and text.isdigit()) for text in dimensions):
        raise UserError(f"--dimensions: '{','.join(dimensions)}' is not a list of integers")
    tasks = tuple(values["tasks"].value or ())
    numbers = tuple(map(int, dimensions))
    config = EvaluationConfig(tasks=tasks, dimensions=numbers, sample=sample, pool=pool, **given)
    folder = locate(out) if out else place / (f"sample_{config.split}" if sample else config.split)
    if out and (folder / "results.json").exists():
        raise UserError(f"{folder}: holds results already, which are never overwritten; give another --out")
    results = evaluate(model, suite, config, folder, console())
    written = ["results.json", "queries.jsonl", *(["sample.json"] if sample else []), "report.md"]
    print(f"wrote {folder}/{', '.join(written)} and results.png")
    example = next(iter(results["tasks"]))
    print(next_line("search", model, example, "a query", *([f"--suite={suite}"] if suite else [])))


def define_search(values: Flags) -> None:
    define_model(values)
    values.text("task", "whose documents are searched, and whose instruction the query gets")
    values.text("suite", "where the task is; that of the training if not given")
    define_prompts(values)
    values.names("words", "MODEL TASK and the query, also without flags")
    values.whole("top", "documents to show", 5, least=1)
    values.switch("pooled", "search the documents of all tasks of the suite")
    values.switch("json", "one JSON object a query, in place of lines to read")


def _query_of(line: str, number: int) -> str:
    """A line of text, or the `text` (or `query`) of a JSON object. Raises UserError where it is not a string."""
    line = (line.removeprefix("\ufeff") if number == 1 else line).strip()
    if line.startswith("{"):
        with suppress(ValueError, RecursionError):  # a text may begin with a brace
            record = json.loads(line)
            text = record.get("text", record.get("query"))
            if not isinstance(text, str):
                raise UserError(
                    f"standard input:{number}: its 'text' or 'query' is {json.dumps(text)[:60]}, not a string; give "
                    'such as {"text": "the query"}'
                )
            line = text.strip()
    if half_a_pair(line):
        raise UserError(f"standard input:{number}: the query holds half of a surrogate pair, which is not a character")
    return line


def search(values: Flags) -> None:
    """Queries come from the command line or, where there is none, line by line from standard input."""
    words = list(values["words"].value or [])
    given = [values[name].value or (words.pop(0) if words else "") for name in ("model", "task")]
    for name, value in zip(("model", "task"), given, strict=True):
        if not value:
            raise UserError(f"search: no {name}; mtret search MODEL TASK 'the query'")
    try:
        read = enumerate(sys.stdin, start=1)
        lines = [" ".join(words).strip()] if words else [_query_of(line, number) for number, line in read]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 ({error.reason}); convert it") from error
    queries = [line for line in lines if line]
    if not queries:
        raise UserError("search: no query; give one after the task, or lines on standard input")
    as_json = bool(values["json"].value)
    from mtret.models.dual_encoder import ModelConfig
    from mtret.runs.search import answer

    model, task = given
    prompts: Any = [values[name].value for name in PROMPTS]
    how = None if prompts == [None, None] else ModelConfig(model, *prompts)
    found = answer(
        model, values["suite"].value or "", task, queries, values["top"].value or 5, bool(values["pooled"].value),
        console(shown=not as_json and sys.stdout.isatty()), how,
    )  # fmt: skip
    for query, hits in zip(queries, found, strict=True):
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
            continue
        print(query)
        for hit in hits:
            words = " ".join(hit.text.split())
            short = words if len(words) <= 100 else f"{words[:99]}…"
            whole = f" of {hit.parent}" if hit.parent else ""
            print(f"  {hit.rank:>2}  {hit.score:.3f}  {hit.task}/{hit.id}{whole}  {short}")
