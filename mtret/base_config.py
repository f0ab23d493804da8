"""Every key of a training's configuration, with its default and its meaning. A configuration may give what it changes
and nothing else.

On the command line: `--config.batch.queries=128`, `--config.mixture.weights=banking77:2,aws_kb:1`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What `mtret train --config` asks for."""
    return ConfigDict(
        {
            "suite": "",  # a folder of task folders, "enterprise" or "tfds:NAME"; --suite goes before it
            "seed": 0,  # of everything: order, samples, dropout, dev sample
            "model": {
                "source": "minilm",  # "minilm", a sentence-transformers folder, or a hub id
                "query_prompt": None,  # before a query, of a source that mtret did not train; None: as published
                "document_prompt": None,  # before a document
                "dropout": 0.0,  # None: as published
                "operands": "float32",  # of matrix products: "float32" or "bfloat16"; sums are always float32
                "attention": None,  # "xla", "cpu", "pallas", "cudnn"; None: the faster of the first two (docs/cpu.md)
                "lora": {  # low-rank adapters; the tower itself is frozen then
                    "rank": 0,  # 0: none
                    "alpha": 16.0,  # an adapter is scaled by alpha / rank
                    "targets": ".*/(query|value|qkv_proj|Wqkv)/kernel",  # expression for the tower's parameters
                },
                # Who reads document texts: "shared", the queries' tower; "frozen", the encoder as it came, so that an
                # index made with it stays valid; "separate", a second tower, trained as well.
                "documents": "shared",
                "vision": {  # the tower of images; without one, tasks of images are left out
                    "source": "",  # a SigLIP folder or hub id; "scratch": untrained, of the sizes below
                    "image_size": 96,  # pixels of a side; images are scaled to it
                    "patch_size": 12,
                    "width": 192,
                    "layers": 4,
                    "heads": 6,
                },
                "remat": False,  # run each layer again in the backward pass, to keep less (not measured; see LOG)
            },
            "mixture": {
                "tasks": (),  # names; empty: every task of the suite that has a train split
                "hold_out": (),  # tasks and families that are left out of it, to be judged on
                "weights": {},  # explicit shares by task name; tasks left out get n^alpha
                "alpha": 0.5,  # a task with n training queries is drawn in proportion to n^alpha
                "generic": 0.1,  # of the steps, those with templates.generic in place of the task's instruction
            },
            "templates": {
                # Must end in {query}. None: "Instruct: {instruction}\nQuery: {query}", behind the source's own prompt
                # for queries where it has one; of a source that mtret trained, the source's.
                "query": None,
                "document": None,  # must end in {document}; None: the source's own prompt for documents, if any
                "generic": "Given a query, retrieve the documents that answer it",  # the exported prompt "query"
            },
            "batch": {
                "queries": 64,  # distinct queries of one task per step
                "positives": 1,  # documents sampled per query
                "negatives": 0,  # hard negatives sampled per query, from negatives/train.tsv
                "query_length": 128,  # tokens, special ones included
                "document_length": 256,
                "row_length": None,  # tokens of a packed row; None: by task, what costs least
                "groups": 1,  # independent parts of a batch; the number of devices divides it
                "chunk_tokens": None,  # of a group, encoded at a time, for batches that do not fit; None: all
                "tasks": {},  # by task name: queries, negatives and the three lengths, where they differ
            },
            "loss": {
                "temperature": 0.05,  # cosines are divided by it: the smaller, the more the hardest negatives count
                "learn_temperature": False,  # from there on
                "symmetric": False,  # adds documents -> queries
                "dimensions": (),  # also of the first so many features (Matryoshka), e.g. (192, 96)
            },
            "optim": {
                "learning_rate": 1e-4,  # the highest, after the warm-up
                "warmup_steps": 10,  # over which it rises from 0
                "schedule": "cosine",  # and then falls: "cosine", "linear"; or stays: "constant"
                "beta1": 0.9,  # AdamW's
                "beta2": 0.999,
                "epsilon": 1e-8,
                "weight_decay": 0.01,  # of the parameters that `decay` names
                "decay": (  # (expression for a parameter's path, decayed or not); the first match counts
                    (".*/(kernel|embedding|in_proj_weight|a|b)", True),
                    (".*/(bias|in_proj_bias|scale|probe)", False),
                    ("log_scale", False),
                ),
                "train": (
                    (".*", True),
                ),  # the same of: trained or frozen, e.g. (("tower/embeddings/.*", False), (".*", True))
                "rates": (
                    (".*", 1.0),
                ),  # the same of: its learning rate, times this, e.g. (("vision/.*", 10.0), (".*", 1.0))
                "average": 0.0,  # above 0, e.g. 0.999: the parameters' moving average is what is judged and kept
                "clip_norm": 1.0,  # global gradient norm; 0: no clipping
            },
            "mesh": {
                "fsdp": 1,  # devices that share one copy of the parameters; a divisor of their number
                "shard": (  # (expression for a parameter's path, its dimension that is cut, or None); the first counts
                    (".*/(kernel|embedding)", -1),
                    (".*", None),
                ),
            },
            "loop": {
                "steps": 200,  # optimiser steps in all, a batch each
                "log_every": 1,  # steps, as the next two
                "evaluate_every": 50,  # on the dev sample; the best is kept
                "checkpoint_every": 50,
                "keep_checkpoints": 2,  # of the whole state, to go on from
                "keep_weights": 0,  # of the parameters alone, of as many checkpoints; `mtret export --step` reads them
                "skip_limit": 10,  # steps left out because loss or gradient is not finite; one more ends the run
            },
            "dev": {
                "queries": 100,  # of each mixture task, at most
                "distractors": 1000,  # documents of each task beside the gold ones, at most
                "dimensions": (),  # also judged by the first so many features of each vector, e.g. (256, 128, 64)
            },
        }
    )
