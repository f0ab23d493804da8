"""What a model folder tells people: README.md, the model card, and INTEGRATE.md, how to call it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtret.data.roles import TrainedTask
from mtret.tables import Table, to_markdown


@dataclass(frozen=True)
class OwnDocuments:
    """A tower of documents, in its own folder."""

    weights_sha256: str
    unchanged: str  # the encoder that it still is, or nothing where it was trained
    prefix: str  # before a document


@dataclass(frozen=True)
class Others:
    """What a model has beside the tower of its queries."""

    documents: OwnDocuments | None = None
    image_size: int | None = None  # pixels of a side
    pools_prompt: bool = True  # whether a text's prompt is part of its vector
    normalises: bool = True  # whether vectors come out with length 1


MINILM = "sentence-transformers/all-MiniLM-L6-v2"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
NOT_EVALUATED = """Not evaluated when this was written. `mtret evaluate --model=RUN` compares a run with BM25, the
encoder that it came from, and their hybrid; `mtret export --model=RUN` then writes the figures here."""


def card(
    tasks: Sequence[TrainedTask],
    prompts: Mapping[str, str],
    details: Mapping[str, Any],
    weights_sha256: str,
    scores: str,
    others: Others = Others(),
) -> str:
    """The model card. `scores`: a table in Markdown, or nothing where the model was not evaluated."""
    example = tasks[0].name
    languages = sorted({language for each in tasks for language in each.languages})
    trained = Table(
        ["task", "family", "domain", "languages", "licence of the data"],
        [[[one.name, one.family, one.domain, ", ".join(one.languages), one.license or "?"] for one in tasks]],
    )
    listed = "\n".join(f"- {json.dumps(language)}" for language in languages)  # bare, Norwegian would be `false`
    base = _hub_id(details["source"])
    about = [f"base_model: {base}"] if base else []
    about += [f"license: {details['license']}"] if "license" in details else []
    header = "\n".join([*about, "language:", listed])
    of_documents = ", `document` that of documents" if others.documents is None else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
{header}
---

# A retriever for {len(tasks)} tasks

Trained by mtret {details["mtret"]} from `{details["source"]}`, {details["step"]} steps.{_merged(details)}
One model serves every task: the prompt before a query says which one; `query` is the prompt for
a task that it was not trained on{of_documents}. [INTEGRATE.md](INTEGRATE.md) shows how, for several stacks.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
queries = model.encode(["..."], prompt_name="{example}")  # the prompt: {prompts[example]!r}
{_encode_documents(others)}
```
{_of_documents(others)}{_of_images(others)}
## Trained on

{to_markdown(trained)}

{_licence(details)}

Steps, batches and rates: `config` in `mtret.json`. Hashes of the training data, by which mtret tells what a task is to
this model: `training_record.json`.

## Evaluated

{scores or NOT_EVALUATED}{_baseline(details)}

## The file

`model.safetensors` has SHA-256 `{weights_sha256}`. `mtret verify --model=FOLDER` recomputes the golden vectors that
were written with it, after it has compared every file with `manifest.json`; `--with=sentence-transformers` does so
through that library.
"""


def _hub_id(source: str) -> str:
    """What a hub calls the encoder that a training began with; nothing where it is a folder of somebody's."""
    if source == "minilm":
        return MINILM
    return source if HUB_ID.fullmatch(source) and not Path(source).exists() else ""


def _licence(details: Mapping[str, Any]) -> str:
    if "license" in details:
        return f"The model's own licence: {details['license']}."
    return (
        "No licence of the model itself is stated; it comes from the encoder that is named above and from these data."
    )


def _merged(details: Mapping[str, Any]) -> str:
    parts = [f"`{one['model']}` ({one['weight']:g})" for one in details.get("merged", ())]
    return f" It is the average of several models' parameters: {', '.join(parts)}." if parts else ""


def _baseline(details: Mapping[str, Any]) -> str:
    """What was put before the texts of the base that the model is compared with, where there was a choice."""
    block = details.get("base_forms") or {"forms": {}}
    if len(block["forms"]) < 2:
        return ""
    scores = ", ".join(f"{name} {each['dev']['mean']:.3f}" for name, each in block["forms"].items() if "dev" in each)
    form = block["forms"][block["chosen"]]
    return f"""

The base is compared in one form, *{block["chosen"]}* (query `{form["query_template"]!r}`, document
`{form["document_template"]!r}`): {block["why"]}{f" ({scores})" if scores else ""}."""


def _encode_documents(others: Others) -> str:
    if others.documents is None:
        return 'documents = model.encode_document(["..."])'
    return 'documents = SentenceTransformer("path/of/this/folder/documents").encode_document(["..."])'


def _of_documents(others: Others) -> str:
    if others.documents is None:
        return ""
    own = "**Documents have a tower of their own**, in `documents/`"
    if others.documents.unchanged:
        own = f"""**An index of documents stays valid.** Only the queries' tower was trained. Documents are embedded by
the encoder in `documents/`, `{others.documents.unchanged}` as it came"""
    return f"""
{own} (SHA-256 of its weights `{others.documents.weights_sha256}`).
This folder's own tower is for queries alone: documents embedded by it are found less well, and nobody says so.
"""


def _of_images(others: Others) -> str:
    if others.image_size is None:
        return ""
    return f"""
## Images

`vision/` holds the tower of images, {others.image_size} pixels a side, in the form of transformers' SiglipVisionModel,
and `projection.safetensors`, which brings its vectors to those of texts. Transparent parts count as white.

```python
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import SiglipImageProcessor, SiglipVisionModel

image = Image.open("icon.png").convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
tower = SiglipVisionModel.from_pretrained("path/of/this/folder/vision").eval()
processor = SiglipImageProcessor.from_pretrained("path/of/this/folder/vision")
projection = load_file("path/of/this/folder/vision/projection.safetensors")["weight"]
with torch.no_grad():
    seen = tower(**processor(images=[image], return_tensors="pt")).pooler_output
images = torch.nn.functional.normalize(seen @ projection.T)
```
"""


def integrate(prompts: Mapping[str, str], dimension: int, max_length: int, others: Others = Others()) -> str:
    """How to call the model: with the prefixes that it was trained with."""
    tasks = [name for name in prompts if name not in ("query", "document")]
    example = tasks[0] if tasks else "query"
    prefix = json.dumps(prompts[example], ensure_ascii=False)
    table = Table(
        ["prompt", "text before the query"],
        [[[name, f"`{json.dumps(text, ensure_ascii=False)}`"] for name, text in prompts.items()]],
    )
    before = others.documents.prefix if others.documents else prompts["document"]
    document = json.dumps(before, ensure_ascii=False)
    every = f"every document the {'tower in `documents/`' if others.documents else 'prompt `document`'}"
    apart = " Documents: another server or object, of the folder `documents/`.\n" if others.documents else ""
    return f"""# Calling this model

Vectors have {dimension} dimensions and {LENGTH_1 if others.normalises else NOT_LENGTH_1} Texts are cut at {max_length}
tokens, the prompt included. Every query needs its prompt, {every}; without them, ranks get
worse and nobody says so.
{_of_documents(others)}
{to_markdown(table)}

## sentence-transformers

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
queries = model.encode(["..."], prompt_name={json.dumps(example)})
{_encode_documents(others)}
scores = queries @ documents.T
```

`encode_query` takes the prompt `query`, for what the model was not trained on; give `prompt_name` for a task's own.

Texts beyond the limit are cut without a word: split long documents first. Truncated vectors are the first dimensions,
of length 1 again: `truncate_dim=128` when it is loaded, and `normalize_embeddings=True` in each `encode`; documents and
queries alike. What that costs: `mtret evaluate --dimensions=128`.

Whether it is loaded as it was meant, by the vectors that were written with it:

```python
import json

from safetensors.numpy import load_file

with open("path/of/this/folder/golden.json", encoding="utf-8") as file:
    golden = json.load(file)
expected = load_file("path/of/this/folder/golden.safetensors")["vectors"]  # prompts x texts x dimensions
for name, vectors in zip(golden["prompts"], expected, strict=True):
    vectors = vectors / (vectors * vectors).sum(axis=-1, keepdims=True) ** 0.5
    cosine = (model.encode(golden["texts"], prompt_name=name, normalize_embeddings=True) * vectors).sum(axis=-1)
    assert cosine.min() >= golden["cosine"], f"prompt {{name}}: {{cosine.min()}}"
```

## Text Embeddings Inference

{_tei(example, prefix) if others.pools_prompt else PROMPT_LEFT_OUT}{apart}
{_langchain(example)}{apart}
{_pgvector(dimension, prefix, document, others)}
{_of_images(others)}"""


LENGTH_1 = "length 1: the dot product is the cosine."
NOT_LENGTH_1 = (
    "are cut to them, so that their length is not 1: compare by cosine, or add `normalize_embeddings=True` to each\n"
    "`encode` below, after which the dot product is the cosine."
)
PROMPT_LEFT_OUT = """Not this model: its vectors leave the prompt out (`include_prompt` in `1_Pooling/config.json`),
which that server does not do. sentence-transformers does, and so does what is built on it.
"""


def _tei(example: str, prefix: str) -> str:
    return f"""```
docker run -p 8080:80 -v $PWD:/model ghcr.io/huggingface/text-embeddings-inference:cpu-1.9 --model-id /model
curl localhost:8080/embed -H 'Content-Type: application/json' \\
  -d '{{"inputs": ["..."], "prompt_name": {json.dumps(example)}}}'
```

`/v1/embeddings`, the route that speaks OpenAI's protocol, knows no prompt names: put the text of the table before the
query yourself.

```python
client.embeddings.create(model="-", input=[{prefix} + query])
```
"""


def _langchain(example: str) -> str:
    return f"""## LangChain

```python
from langchain_huggingface import HuggingFaceEmbeddings

embeddings = HuggingFaceEmbeddings(
    model_name="path/of/this/folder", query_encode_kwargs={{"prompt_name": {json.dumps(example)}}}
)
```
"""


def _pgvector(dimension: int, prefix: str, document: str, others: Others) -> str:
    where = ", by `documents/`" if others.documents else ""
    return f"""## pgvector

```sql
CREATE TABLE documents (id text PRIMARY KEY, body text, embedding vector({dimension}));
CREATE INDEX ON documents USING hnsw (embedding vector_ip_ops);
-- <#> is the negative dot product: the nearest come first
SELECT id, body FROM documents ORDER BY embedding <#> $1 LIMIT 10;
```

with `$1` the vector of {prefix} and the query, and each `embedding` that of {document} and the body{where}."""
