"""Whether a training can teach anything: prompts leave room for texts, texts differ as far as they are read, and
queries have negatives. What cannot teach is refused, what teaches little is named, both before the first step."""

from collections.abc import Collection, Sequence

from mtret.data.images import Images
from mtret.data.negatives import FEW, enough_queries, share_in_training
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer
from mtret.data.training_tasks import TrainingTask
from mtret.errors import UserError
from mtret.run_config import RunConfig
from mtret.train.programs import CompiledStep

ROOM = 32  # tokens for a text, which a remedy makes beside a prompt
MUCH = 0.5  # of the tokens that are read; a prompt that takes as much is named where texts are cut


def memory_remarks(steps: Collection[CompiledStep], asked: bool, free: int) -> list[str]:
    """What a user should know of the memory of steps. `asked`: for layers that run again; `free`: bytes."""
    largest = max(steps, key=lambda step: step.temporary_bytes)
    needed, lines = largest.temporary_bytes, []
    if largest.runs_layers_again and not asked:
        lines.append(
            "a batch's activations do not fit in memory: layers run a second time in the backward pass, which takes a "
            "third longer (smaller batches: --config.batch.queries)"
        )
    if needed > free:
        lines.append(
            f"the largest step needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free: if it ends for want of "
            "memory, give --config.batch.chunk_tokens=4096"
        )
    return lines


def check_room(
    tasks: Sequence[Task], training: Sequence[TrainingTask], config: RunConfig, tokenizer: Tokenizer, longest: int
) -> list[str]:
    """A line for each prompt that takes half of the tokens or more and cuts texts. `longest`: tokens that the encoder
    reads. Raises UserError for a prompt that leaves none."""
    lines = []
    for task, each in zip(tasks, training, strict=True):
        templates = config.templates.chosen
        prompts = [("query", "its instruction in task.json", templates.query_prefix(task.card.instruction))]
        if config.mixture.generic_share:
            prompts.append(("query", "templates.generic", templates.query_prefix(templates.generic)))
        if not isinstance(each.documents, Images):
            prompts.append(("document", "templates.document", templates.document_prefix))
        for side, place, prompt in prompts:
            own = getattr(config.batch.tasks.get(task.name), f"{side}_length", None) is not None
            key = f"batch.tasks.{task.name}.{side}_length" if own else f"batch.{side}_length"
            lines += _check_prompt(each, side, key, place, tokenizer.length(prompt), longest)
    return list(dict.fromkeys(lines))


def _check_prompt(task: TrainingTask, side: str, key: str, place: str, taken: int, longest: int) -> list[str]:
    """`key`: of the configuration, the length of this side; `place`: where the prompt is written."""
    limit = getattr(task.config, f"{side}_length")
    remedy = f"shorten {place}"
    if taken + 1 < longest and limit < longest:
        remedy = f"give --config.{key}={min(taken + ROOM, longest)}, or {remedy}"
    found = f"{task.name}: the prompt before a {side} takes {taken} tokens of {key}={limit}"
    if taken >= limit:
        raise UserError(f"{found}, so nothing of the {side} is read; {remedy}")
    tokens = task.queries if side == "query" else task.document_tokens
    cut = float((tokens.lengths(limit + 1) > limit).mean())
    return [f"{found}, and {cut:.0%} of its texts are cut; {remedy}"] if taken >= MUCH * limit and cut else []


def slow_average(config: RunConfig) -> list[str]:
    """A line where a moving average, which is what is kept, is mostly what the training started from."""
    decay, steps = config.optim.ema_decay, config.loop.steps
    kept = decay**steps
    if kept <= MUCH:
        return []
    return [
        f"optim.ema_decay={decay:g} over {steps:,} steps: {kept:.0%} of the model that is kept is what it started "
        f"from; give --config.optim.ema_decay={1 - 5 / max(steps, 10):.2g} or less, or more steps"
    ]


def check_teaching(training: Sequence[TrainingTask], undrawn: Collection[str]) -> list[str]:
    """A line for each task whose batches teach little. Raises UserError where those of all tasks teach nothing.

    `undrawn`: names of tasks without steps, which do not matter.
    """
    drawn = [task for task in training if task.name not in undrawn]
    found = {task.name: share_in_training(task) for task in drawn}
    lines = [line for task in drawn for line in _cut_alike(task)]
    several = len(drawn) > 1
    weak = [_few_negatives(task, found[task.name], several) for task in drawn if found[task.name] < FEW]
    if drawn and not any(found.values()):
        raise UserError(f"nothing can be learned. {' '.join([*lines, *weak])}")
    return [*lines, *weak, *(line for task in drawn for line in _lost_negatives(task))]


def _cut_alike(task: TrainingTask) -> list[str]:
    counts = {"query": task.queries_cut_alike, "document": task.documents_cut_alike}
    sides = {"query": "queries", "document": "documents"}
    return [
        f"{task.name}: {count:,} {sides[side]} read like another one in their first "
        f"{getattr(task.config, f'{side}_length')} tokens, and count as the same; raise batch.{side}_length."
        for side, count in counts.items()
        if count
    ]


def _few_negatives(task: TrainingTask, share: float, several: bool) -> str:
    size = min(task.config.queries, len(task.queries))
    of = f"batch.tasks.{task.name}"
    larger = enough_queries(task)
    remedies = [f"--config.{of}.queries={larger}"] if larger else []
    if not task.config.negatives:
        remedies.append(f"hard negatives, in negatives/train.tsv, with --config.{of}.negatives=1")
    if several:
        remedies.append(f"--hold_out={task.name}, which leaves it out")
    words = f"only {share:.0%}" if share else "none"
    effect = "most of its steps teach little" if share else "its steps teach nothing"
    return (
        f"{task.name}: {words} of its queries have a negative in a batch of {size}, so that {effect}; give "
        f"{' or '.join(remedies or ['it more documents'])}."
    )


def _lost_negatives(task: TrainingTask) -> list[str]:
    """Raises UserError where hard negatives are asked for and not one is left."""
    if task.negatives is None:
        return []
    sizes, asked, count = task.negatives.sizes(), task.config.negatives, len(task.queries)
    why = "none is given in negatives/train.tsv, or it reads like one of their positives"
    if not sizes.any():
        raise UserError(
            f"{task.name}: none of its {count:,} queries has a hard negative, but batch.negatives asks for {asked}: "
            f"{why}; give others, or --config.batch.tasks.{task.name}.negatives=0"
        )
    without, fewer = int((sizes == 0).sum()), int(((sizes > 0) & (sizes < asked)).sum())
    lines = [f"{task.name}: {without:,} of {count:,} queries have no hard negative: {why}."] if without else []
    if fewer:
        lines.append(
            f"{task.name}: {fewer:,} of {count:,} queries have fewer than {asked} hard negatives, "
            f"{sizes[sizes > 0].min()} at least; their batches hold those that they have."
        )
    return lines
