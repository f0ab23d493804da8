"""What its publisher puts before the texts of an encoder that mtret did not train.

The rules are those that sentence-transformers 6 documents for `encode_query`, `encode_document` and `encode`. It does
not quite keep them: there, every model has prompts `query` and `document`, if only empty ones, so that the first two
never find a folder's `passage`, `corpus` or default. Here an encoder that was published with `passage: ` gets it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mtret.data.templates import Templates
from mtret.encoder_folder.reading import read_json
from mtret.models.hf import Pretrained

CONFIG = "config_sentence_transformers.json"
QUERY_NAMES, DOCUMENT_NAMES = ("query",), ("document", "passage", "corpus")  # the first that is there
SEARCH = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True)
class Prompts:
    """Texts before a query and before a document, and where they are from, in words."""

    query: str = ""
    document: str = ""
    origin: str = "none"

    def templates(self) -> Templates:
        """With nothing else before a text, whatever the task."""
        return Templates(f"{_literal(self.query)}{{query}}", f"{_literal(self.document)}{{document}}")

    def before_instructions(self) -> Templates:
        """For a training: the instruction stands behind the query's prompt."""
        return Templates(_literal(self.query) + Templates.query, f"{_literal(self.document)}{{document}}")


@dataclass(frozen=True)
class Family:
    """Encoders that were trained with prompts which their published folders may lack."""

    name: str
    ids: str  # expression for hub ids
    called: str  # for the names that copies of them go by
    query: str
    document: str = ""


# Those that a tower of mtret can read. Sources: the model cards, and the prompts of the MTEB leaderboard's own
# definitions, github.com/embeddings-benchmark/mteb at a905523d, mteb/models/model_implementations/.
# GTE, MiniLM and multilingual BGE (m3) were trained without prompts (gte_models.py, bge_models.py).
FAMILIES = (
    # huggingface.co/intfloat/e5-base-v2 ("this is how the model is trained"); e5_models.py.
    # Not E5-instruct, whose prompt is an instruction.
    Family(
        "E5",
        r"intfloat/(multilingual-)?e5-(small|base|large)(-v2)?",
        r"\bm?e5-(small|base|large)\b(?!-instruct)",
        "query: ",
        "passage: ",
    ),
    # huggingface.co/BAAI/bge-base-en-v1.5; bge_models.py
    Family("BGE", r"BAAI/bge-(small|base|large)-en(-v1\.5)?", r"\bbge-(small|base|large)-en\b", SEARCH),
    Family(
        "BGE",
        r"BAAI/bge-(small|base|large)-zh(-v1\.5)?",
        r"\bbge-(small|base|large)-zh\b",
        "为这个句子生成表示以用于检索相关文章：",  # noqa: RUF001, a Chinese colon
    ),
    # huggingface.co/Snowflake/snowflake-arctic-embed-m; arctic_models.py
    Family(
        "Arctic Embed",
        r"Snowflake/snowflake-arctic-embed-(xs|s|m|m-v1\.5|l)",
        r"\barctic-embed-(xs|s|m|l)\b(?!-v2|-long)",
        SEARCH,
    ),
    # huggingface.co/Snowflake/snowflake-arctic-embed-l-v2.0
    Family("Arctic Embed 2", r"Snowflake/snowflake-arctic-embed-[ml]-v2\.0", r"\barctic-embed-[ml]-v2\b", "query: "),
    # huggingface.co/mixedbread-ai/mxbai-embed-large-v1/discussions/19; mixedbread_ai_models.py
    Family("mxbai", r"mixedbread-ai/mxbai-embed-large-v1", r"\bmxbai-embed-large\b", SEARCH),
    # huggingface.co/WhereIsAI/UAE-Large-V1; uae_models.py
    Family("UAE", r"WhereIsAI/UAE-Large-V1", r"\buae-large\b", SEARCH),
    # huggingface.co/nomic-ai/nomic-embed-text-v1 and nomic-ai/modernbert-embed-base; nomic_models.py
    Family(
        "ModernBERT Embed",
        r"nomic-ai/modernbert-embed-base",
        r"\bmodernbert-embed\b",
        "search_query: ",
        "search_document: ",
    ),
)


def published(encoder: Pretrained, source: str, query: str | None = None, document: str | None = None) -> Prompts:
    """The prompts of an encoder: those of its folder, else those that are known of its hub id (`source`); `query` and
    `document`, where they are given, go before."""
    own = _of_folder(encoder)
    if not own.query and not own.document and not any(encoder.prompts.values()) and (known := _known(source)):
        own = Prompts(known.query, known.document, f"known of {source}, whose folder has none")
    if query is None and document is None:
        return own
    return Prompts(
        own.query if query is None else query, own.document if document is None else document, "given by hand"
    )


def _of_folder(encoder: Pretrained) -> Prompts:
    prompts, default = encoder.prompts, encoder.default_prompt_name
    found = [next((name for name in names if name in prompts), None) for names in (QUERY_NAMES, DOCUMENT_NAMES)]
    # A folder that tells no queries from documents is one for `encode`, which takes the default for every text.
    if default is not None and found == [None, None]:
        return Prompts(prompts.get(default, ""), prompts.get(default, ""), f"default_prompt_name in {CONFIG}")
    query, document = (prompts[name] if name else "" for name in found)
    return Prompts(query, document, CONFIG if query or document else "none")


def _known(source: str) -> Family | None:
    return next((family for family in FAMILIES if re.fullmatch(family.ids, source, re.IGNORECASE)), None)


def remarks(encoder: Pretrained, source: str, prompts: Prompts) -> list[str]:
    """What a user should know of how the prompts of an encoder were found; a line each."""
    if prompts.origin == "given by hand":
        return []
    there, where = encoder.prompts, encoder.folder / CONFIG
    if prompts.origin.startswith("known"):
        return [f"{source}: prompts {_quoted(prompts)} are put before its texts, as they are {prompts.origin}"]
    lines = []
    others = [name for name, text in there.items() if text and name not in (*QUERY_NAMES, *DOCUMENT_NAMES)]
    if others and not prompts.query and not prompts.document:
        lines.append(
            f"{where}: has prompts ({', '.join(others)}), but none for queries or documents, so texts are read bare; "
            "--query_prompt=TEXT and --document_prompt=TEXT give others"
        )
    hidden = [name for name in DOCUMENT_NAMES[1:] if there.get(name)]
    if hidden and "document" in there and not prompts.document:
        lines.append(
            f"{where}: its prompt 'document' is empty and overrides '{hidden[0]}', as in sentence-transformers; "
            f"--document_prompt={there[hidden[0]]!r} takes the latter"
        )
    if not any(there.values()) and prompts.origin == "none" and (family := _alike(encoder, source)):
        lines.append(
            f"{encoder.folder}: is called like {family.name}, which was trained with the prompts {_quoted(family)}, "
            f"but has none, so texts are read bare; --query_prompt={family.query!r} "
            f"--document_prompt={family.document!r} give them (in a training --config.model.query_prompt, "
            "--config.model.document_prompt)"
        )
    return lines


def _quoted(prompts: Prompts | Family) -> str:
    return f"{prompts.query!r} and {prompts.document!r}"


def _alike(encoder: Pretrained, source: str) -> Family | None:
    """By the name of the folder, or the one that config.json was saved under."""
    saved = read_json(encoder.transformer / "config.json", optional=True).get("_name_or_path")
    of_hub = [part for part in encoder.folder.parts if part.startswith("models--")]  # a snapshot of the hub's cache
    names = [source, encoder.folder.name, *of_hub, saved if isinstance(saved, str) else ""]
    for name in names:
        called = re.sub(r"[_\s.]+", "-", Path(name.rstrip("/").replace("--", "/")).name.lower())
        for family in FAMILIES:
            if re.search(family.called, called):
                return family
    return None


def _literal(text: str) -> str:
    """In a template."""
    return text.replace("{", "{{").replace("}", "}}")
