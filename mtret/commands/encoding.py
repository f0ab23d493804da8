"""`mtret encode`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mtret.commands.common import PROMPTS, Flags, console, define_model, define_prompts, next_line, required
from mtret.errors import UserError

if TYPE_CHECKING:
    from mtret.runs.encode import EncodeConfig


def define_encode(values: Flags) -> None:
    define_model(values)
    values.text("task", "whose documents or queries are encoded, with its instruction")
    values.text(
        "texts",
        "in place of a task: .jsonl with _id and text (and title), or a file with a text on each line; - is standard "
        "input",
    )
    values.text("suite", "where the task is; that of the training if not given")
    values.choice("side", "of the task, or what the texts are", ["documents", "queries"], "documents")
    values.text(
        "prompt",
        "before --texts, by its name in the model: a task, query or document (default: document, or query, by --side)",
    )
    define_prompts(values)
    values.whole("dimensions", "truncate each vector to its first dimensions, of length 1 again", least=1)
    values.text("out", "the file to write: .parquet or .jsonl; must not exist")


def encode(values: Flags) -> None:
    model, name = required(values, "model"), required(values, "out")
    task, source = values["task"].value or "", values["texts"].value or ""
    if bool(task) == bool(source):
        raise UserError("encode: give either --task or --texts")
    from mtret.files import locate
    from mtret.runs.encode import EncodeConfig, check_out, encode_to_file

    out = locate(name)
    check_out(out)
    given: Any = {key: values[key].value or "" for key in ("suite", "side", "prompt")}
    given |= {key: values[key].value for key in PROMPTS}
    dimensions: Any = values["dimensions"].value
    config = EncodeConfig(model, task=task, dimensions=dimensions, **given)
    if source:
        with _texts(source, config) as (texts, total):
            done = encode_to_file(config, texts, out, console(), total)
    else:
        done = encode_to_file(config, None, out, console())
    print(f"wrote {out}: {done.count:,} vectors of {done.dimension} dimensions, {done.length}, prompt {done.prompt!r}")
    if done.truncated:
        print(f"{done.truncated:,} texts are longer than the model reads: their ends have no part in their vectors")
    if done.empty:
        print(f"{done.empty:,} without text were left out")
    if config.side == "queries" or (config.prompt and not task):
        return
    of = [f"--task={task}", *([f"--suite={config.suite}"] if config.suite else [])] if task else ["--texts=-"]
    alike = [f"--dimensions={dimensions}"] if dimensions else []
    other = f"--out={'queries' if out.stem != 'queries' else 'asked'}{out.suffix}"
    print(next_line("encode", f"--model={model}", *of, "--side=queries", *alike, other))


@contextmanager
def _texts(source: str, config: "EncodeConfig") -> Iterator[tuple[Iterator[tuple[str, str]], int]]:
    """Pairs of id and text, and how many there are, 0 where that is not known."""
    from mtret.files import locate
    from mtret.runs.encode import count_lines, read_texts, reads_documents

    documents = reads_documents(config)
    if source == "-":
        yield read_texts(sys.stdin, "standard input", documents), 0
        return
    path = locate(source)
    if not path.exists() or path.is_dir():
        raise UserError(f"--texts={source}: no such file")
    with path.open("r", encoding="utf-8") as file:
        yield read_texts(file, source, documents), count_lines(path)
