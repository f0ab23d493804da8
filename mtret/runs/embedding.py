"""Whole tasks to vectors, by all towers of a model, with a cache and a bar."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32
from rich.console import Console

from mtret.console import Bar, timed
from mtret.data.images import Images
from mtret.data.suites import read_all_pixels
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer
from mtret.files import AnyPath
from mtret.index.encode import Embedder, Texts, cached
from mtret.model_folder.fingerprint import key
from mtret.model_folder.folder import RetrievalModel

NEEDS_TOWER = "its documents are images, and the model has no image tower"


def reads(model: RetrievalModel, task: Task) -> bool:
    """Whether a model can read the documents of a task."""
    return task.images is None or model.towers.images is not None


def unreadable(model: RetrievalModel, tasks: Iterable[Task]) -> dict[str, str]:
    """By name those tasks that a model cannot be asked, with the reason: it cannot read their documents, or their
    instruction leaves no room for a query."""
    encoder = model.encoder
    tokenizer = Tokenizer(encoder.folder, None, encoder.pools_prompt)
    found = {}
    for task in tasks:
        prompt = model.templates.query_prefix(task.card.instruction)
        if not reads(model, task):
            found[task.name] = NEEDS_TOWER
        elif reason := tokenizer.no_room(prompt, encoder.max_length):
            found[task.name] = f"{reason}; shorten its instruction in task.json"
    return found


def embed_tasks(
    title: str, model: RetrievalModel, tasks: Sequence[tuple[Task, Sequence[str]]], cache: AnyPath, console: Console
) -> list[tuple[Float32[np.ndarray, "_ D"], Float32[np.ndarray, "_ D"]]]:
    """Vectors of some queries of each task, which may be none, and of all its documents."""
    encoder, images = model.encoder, model.towers.images
    tokenizer = Tokenizer(encoder.folder, cache, encoder.pools_prompt)
    pixels = read_all_pixels([task for task, _ in tasks], images.config.image_size, cache, console) if images else {}
    sides: list[tuple[Texts, Texts | Images]] = []
    with timed(console, f"{title}: tokenising"):
        for task, asked in tasks:
            queries = tokenizer.after(model.templates.query_prefix(task.card.instruction), asked)
            documents: Texts | Images
            if task.images:
                documents = Images(pixels[task.name], np.arange(len(task.document_ids)))
            else:
                texts = tokenizer.after(model.templates.document_prefix, task.document_texts)
                documents = Texts(texts, encoder.max_length)
            sides.append((Texts(queries, encoder.max_length), documents))
    every = [part for pair in sides for part in pair if isinstance(part, Texts)]
    patches = images.config.patches if images else 0
    total = sum(int(part.tokens.lengths(part.limit).sum()) for part in every)
    total += patches * sum(map(len, pixels.values()))  # a patch counts as a token
    embedders = model.towers.embedders()
    with Bar(console, f"{title}: encoding, tokens", total) as bar:

        def run(embedder: Embedder, parts: Sequence[Texts]) -> list[np.ndarray]:
            by = encoder if embedder is embedders.queries else model.towers.documents or encoder
            return cached(embedder, parts, key(by), cache, bar.advance)

        found = embedders(sides, run, lambda done: bar.advance(done * patches))
        bar.finish()
    return found
