"""The vectors by which a loss tells what is no negative: those of the encoder that a training starts from."""

from collections.abc import Sequence

from rich.console import Console

from mtret.console import Bar
from mtret.data.guide import TaskGuide, Vectors
from mtret.data.planning import Planner
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer
from mtret.files import AnyPath
from mtret.index.encode import Texts, cached
from mtret.model_folder.fingerprint import key
from mtret.model_folder.folder import base_of
from mtret.models import hf
from mtret.run_config import RunConfig


def guides(
    planner: Planner, tasks: Sequence[Task], encoder: hf.Pretrained, config: RunConfig, cache: AnyPath, console: Console
) -> list[TaskGuide]:
    """By task, vectors of all texts that the planned batches hold, each after the prompts that the encoder is deployed
    with, cut as in training. They are kept in the cache: another run with these batches reads them there."""
    base = base_of(encoder, config.model)
    tokenizer = Tokenizer(encoder.folder, cache, encoder.pools_prompt)
    sides: list[Texts] = []
    drawn = planner.drawn()
    for task, training, (queries, documents) in zip(tasks, planner.tasks, drawn, strict=True):
        assert training.query_rows is not None and training.document_rows is not None
        asked = [task.query_texts[row] for row in training.query_rows[queries]]
        found = [task.document_texts[row] for row in training.document_rows[documents]]
        prefix = base.templates.query_prefix(task.card.instruction)
        for texts, limit in (
            (tokenizer.after(prefix, asked), training.config.query_length),
            (tokenizer.after(base.templates.document_prefix, found), training.config.document_length),
        ):
            sides.append(Texts(texts, min(limit, encoder.max_length)))
    total = sum(int(side.tokens.lengths(side.limit).sum()) for side in sides)
    embedder = base.towers.embedders().queries
    with Bar(console, "encoding the planned texts by the encoder as it came, tokens", total) as bar:
        vectors = [base.encoder.comparable(each) for each in cached(embedder, sides, key(encoder), cache, bar.advance)]
        bar.finish()
    return [
        TaskGuide(Vectors(queries, of_queries), Vectors(documents, of_documents))
        for (queries, documents), of_queries, of_documents in zip(drawn, vectors[::2], vectors[1::2], strict=True)
    ]
