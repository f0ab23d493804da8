"""What data alone says of whether a training on it can teach, and a score on it can tell: remarks of `data check`."""

import numpy as np

from mtret.data.chunks import parent_keys
from mtret.data.negatives import FEW, share_of_texts
from mtret.data.tasks import Task
from mtret.data.templates import Templates
from mtret.data.training_tasks import BatchConfig

CHARACTERS_OF_TOKEN = 4  # of English; of a script without spaces, about one
MUCH = 0.5  # of the tokens that are read of a query
FIRST = 1000  # characters of a document, about 250 tokens; the default document_length is 256


def remarks(task: Task) -> list[str]:
    """What deserves a second look, in sentences; by the default lengths and batches of a training."""
    return [*_negatives(task), *_instruction(task), *_beginnings(task), *_sure(task)]


def _negatives(task: Task) -> list[str]:
    batch = BatchConfig()
    if "train" not in task.splits or (share := share_of_texts(task, batch)) >= FEW:
        return []
    words = f"only {share:.0%} of its train queries have" if share else "no train query has"
    need = "only with the hard negatives of negatives/train.tsv (batch.negatives)"
    if "train" not in task.negatives:
        need = "only with hard negatives (negatives/train.tsv and batch.negatives) or more documents"
    return [
        f"{words} a negative in a batch of {batch.queries}, a document that is not a right answer of its own; training "
        f"on it teaches {need}."
    ]


def _instruction(task: Task) -> list[str]:
    limit = BatchConfig().query_length
    prompt = Templates().query_prefix(task.card.instruction)
    ascii_characters = sum(character.isascii() for character in prompt)
    tokens = ascii_characters // CHARACTERS_OF_TOKEN + len(prompt) - ascii_characters
    if tokens < MUCH * limit:
        return []
    effect = "so that nothing of a query is read" if tokens >= limit else "so that long queries are cut"
    return [
        f"its instruction takes about {tokens:,} of the {limit} tokens that a training reads of a query "
        f"(batch.query_length), {effect}; shorten it."
    ]


def _beginnings(task: Task) -> list[str]:
    if task.images:
        return []
    longer = {text for text in parent_keys(task) if len(text) > FIRST} if task.parents is None else set()
    alike = len(longer) - len({text[:FIRST] for text in longer})
    words = "1 document reads" if alike == 1 else f"{alike:,} documents read"
    return [f"{words} like another one in the first {FIRST:,} characters."] if alike else []


def _sure(task: Task) -> list[str]:
    """Queries of which every document is a right answer: whatever a model finds is right."""
    whole = len(task.parent_rows)
    found = []
    for split in ("dev", "test"):
        if split in task.splits:
            positives = task.splits[split].positives()
            sure = int((np.diff(positives.offsets) == whole).sum())
            words = f"1 {split} query has" if sure == 1 else f"{sure:,} {split} queries have"
            if sure:
                found.append(f"{words} every document as a right answer: whatever a model finds is right.")
    return found
