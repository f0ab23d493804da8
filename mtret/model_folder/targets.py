"""What some servers need of a model folder beyond what sentence-transformers needs, and what they would get wrong.

Read from text-embeddings-inference 1.9 and Elasticsearch's importer, eland 9.
"""

from pathlib import Path

from mtret.encoder_folder.reading import read_json
from mtret.errors import UserError
from mtret.models import hf

TARGETS = ("tei", "elastic")
# By model_type, the fields of config.json that text-embeddings-inference reads without a default, and their types, as
# far as a tower reads a model without them: the others are there, of the right types, and the export adds its own.
TEI_FIELDS: dict[str, dict[str, type]] = {
    "bert": {"hidden_act": str},
    "xlm-roberta": {"hidden_act": str, "pad_token_id": int},
    "gte": {"hidden_act": str},
    "modernbert": {"hidden_activation": str},
}
SERVED_POOLINGS = {"tei": ("cls", "mean", "last"), "elastic": ("cls", "mean")}
ELASTIC_TYPES = ("bert", "xlm-roberta")


def check_target(target: str, encoder: hf.Pretrained) -> None:
    """Raises UserError where a server would refuse the model, or serve it wrong without a word."""
    if target and not encoder.pools_prompt:
        raise UserError(
            f"--target={target}: this encoder leaves prompts out of the mean (include_prompt in {hf.POOLING}), which "
            "that server does not do; its vectors would be others"
        )
    head = encoder.config.head
    if target and (head.poolings[1:] or head.pooling not in SERVED_POOLINGS[target] or head.dense or head.truncate_dim):
        raise UserError(
            f"--target={target}: that server reads one pooling of {', '.join(SERVED_POOLINGS[target])}, and Normalize; "
            f"this encoder pools by {head.pooling}, has {len(head.dense)} Dense modules and truncate_dim "
            f"{head.truncate_dim}"
        )
    if target and encoder.settings.do_lower_case:
        raise UserError(f"--target={target}: that server does not read do_lower_case in {hf.SETTINGS[0]}")
    if target == "elastic" and encoder.model_type not in ELASTIC_TYPES:
        raise UserError(
            f"--target=elastic: Elasticsearch's importer knows {' and '.join(ELASTIC_TYPES)}, not "
            f"'{encoder.model_type}'; compute vectors outside and store them as dense_vector"
        )


def check_for_tei(folder: Path) -> None:
    """Raises UserError where a file lacks what text-embeddings-inference requires."""
    if not (folder / "tokenizer.json").exists():
        raise UserError("--target=tei: tokenizer.json is missing in the export; the source has none")
    config = read_json(folder / "config.json")
    for key, kind in TEI_FIELDS[config["model_type"]].items():
        if not isinstance(config.get(key), kind):
            raise UserError(
                f"--target=tei: config.json has {config.get(key)!r} for '{key}', where a {kind.__name__} is needed"
            )
