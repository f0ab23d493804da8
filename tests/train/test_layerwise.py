"""A step's gradient by layer against the same in one program, for every kind of tower and of training."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.images import Images
from mtret.data.mixture import MixtureConfig
from mtret.data.planning import Planner
from mtret.data.shapes import Chunks
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.encoder_folder.modules import DenseLayer, Head, Normalize
from mtret.losses import LossConfig
from mtret.models.bert import BertConfig, BertTower
from mtret.models.gte import GteConfig, GteTower
from mtret.models.lora import LoraConfig
from mtret.models.modernbert import GLOBAL, LOCAL, ModernBertConfig, ModernBertTower
from mtret.models.rotary import Rotation
from mtret.models.vision import ImageTower, VisionConfig
from mtret.models.xlmr import XlmrConfig
from mtret.pytrees import Tree, flatten, unflatten
from mtret.runs.preflight import memory_remarks
from mtret.train import programs
from mtret.train.layerwise import Compiler, LayerwiseGradients, compile_gradients
from mtret.train.optim import OptimConfig, frozen_paths, optimizer
from mtret.train.programs import SEED
from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs, replicated
from mtret.train.step import StepConfig, create_state, gradients, initial_params

GEOMETRY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
DROPPED = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
BERT = BertTower(BertConfig(num_hidden_layers=2, type_vocab_size=2, layer_norm_eps=1e-12, **DROPPED, **GEOMETRY))
XLMR = BertTower(
    XlmrConfig(num_hidden_layers=2, type_vocab_size=1, layer_norm_eps=1e-5, first_position=2, **DROPPED, **GEOMETRY)
)
GTE = GteTower(
    GteConfig(
        num_hidden_layers=2, type_vocab_size=1, layer_norm_eps=1e-12, rotation=Rotation(100.0), **DROPPED, **GEOMETRY
    )
)
MODERNBERT = ModernBertTower(
    ModernBertConfig(
        num_hidden_layers=4,
        norm_eps=1e-5,
        local_attention=4,
        layer_types=(GLOBAL, LOCAL, LOCAL, GLOBAL),
        rotations=(Rotation(1000.0), Rotation(10.0)),
        attention_dropout=0.2,
        mlp_dropout=0.1,
        embedding_dropout=0.1,
        **GEOMETRY,
    )
)
BARE = Head(layers=())
HEAD = Head(layers=(DenseLayer(16, 10), Normalize()))
PICTURES = ImageTower(VisionConfig(image_size=8, patch_size=4, width=12, layers=1, heads=2).siglip(), 16)
COUNT = 20
# Compiles in half the time what runs once.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
EMBEDDINGS = ((r"tower/(embeddings|encoder/layer/0)/.*", False), (r".*", True))
ALL_BUT_NORMS = ((r".*LayerNorm.*", True), (r"log_scale", True), (r".*", False))


@dataclass(frozen=True)
class Case:
    tower: Any = BERT
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    documents: str = "shared"  # or "separate", "images", or "both": the batch of images is looked at
    chunk_tokens: int | None = 48  # three rows, so three chunks of texts
    together: int = 1  # of them
    programs: int | None = None  # for layers, forward and backward, of one shape
    optimised: bool = False


CASES = {
    "bert": Case(programs=2, optimised=True),
    "in one chunk": Case(chunk_tokens=None, programs=2),
    "two chunks at once, and one": Case(together=2, programs=4),
    "xlm-r": Case(XLMR, programs=2),
    "gte": Case(GTE, programs=2),
    "modernbert": Case(MODERNBERT, programs=6, optimised=True),  # its first layer, local and global ones
    "layers run again": Case(BERT.clone(config=replace(BERT.config, remat=True)), programs=2),
    "matryoshka, both ways, learned temperature": Case(
        loss=LossConfig(symmetric=True, learn_temperature=True, dimensions=(8, 3))
    ),
    "dense head": Case(BERT.clone(config=replace(BERT.config, head=HEAD))),
    "the lower half frozen": Case(optim=OptimConfig(trainable=EMBEDDINGS), programs=3),
    "norms alone": Case(optim=OptimConfig(trainable=ALL_BUT_NORMS), programs=2),
    "adapters": Case(lora=LoraConfig(rank=2, alpha=4.0), programs=4),  # the lower layer's input has no derivative
    "separate documents": Case(documents="separate", programs=2),
    "separate documents, in one chunk each": Case(documents="separate", chunk_tokens=None, programs=4),
    "frozen documents": Case(
        optim=OptimConfig(trainable=((r"documents/.*", False), (r".*", True))), documents="separate", programs=3
    ),
    "images": Case(documents="images"),
    "images, and vectors of texts as they are": Case(
        BERT.clone(config=replace(BERT.config, head=BARE)), documents="both"
    ),
}


def drawn(tower: Any, seed: int, *inputs: Any) -> Tree:
    shapes = flatten(jax.eval_shape(tower.init, jax.random.key(0), *inputs)["params"])
    random = np.random.default_rng(seed)
    leaves = {p: random.normal(float(p.endswith("scale")), 0.3, x.shape) for p, x in shapes.items()}
    if getattr(tower, "config", None) and tower.config.head == HEAD:
        leaves |= {"dense/0/linear/kernel": random.normal(0, 0.3, (16, 10)), "dense/0/linear/bias": np.ones(10)}
    return unflatten(leaves)


def planner(case: Case) -> Planner:
    random = np.random.default_rng(2)

    def texts() -> Tokens:
        lengths = random.integers(4, 9, COUNT)
        return Tokens(random.integers(3, 60, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    batch = BatchConfig(
        queries=18,
        query_length=8,
        document_length=8,
        row_length=16,
        shards=2,
        positives=2,
        chunk_tokens=case.chunk_tokens,
    )
    sets = [sorted({i, (i + 1) % COUNT}) for i in range(COUNT)]
    own = Relation(offsets_of(np.array([len(each) for each in sets])), np.concatenate(sets).astype(np.int32))
    pixels = random.integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
    images = Images(pixels, np.arange(COUNT))
    documents = {"images": [images], "both": [texts(), images]}.get(case.documents, [texts()])
    tasks = [TrainingTask(f"task {i}", texts(), each, own, own, None, batch) for i, each in enumerate(documents)]
    separate = case.documents in ("separate", "both")
    return Planner(tasks, MixtureConfig(generic_share=0.0), batch, "mean", 0, 9, separate=separate, patches=4)


def both(case: Case, dtype: Any) -> tuple[tuple[float, Tree], tuple[float, Tree], LayerwiseGradients]:
    """Loss and gradient of a batch by layer, and in one program; and the programs of the first."""
    plans, row = planner(case), jnp.zeros((1, 4), jnp.int32)
    params: Any = initial_params(
        drawn(case.tower, 0, row, row, row),
        case.loss,
        case.lora,
        documents=drawn(case.tower, 1, row, row, row) if case.documents in ("separate", "both") else None,
        vision=drawn(PICTURES, 2, jnp.zeros((1, 8, 8, 3), jnp.uint8)) if case.documents in ("images", "both") else None,
    )
    if "lora" in params:  # no kernel's adapter is zero
        params["lora"] = jax.tree.map(lambda x: x + 0.1, params["lora"])
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    config = StepConfig(
        tower=case.tower,
        optimizer=optimizer(case.optim, params, 9),
        loss=case.loss,
        shard_queries=plans.shard_queries,
        shard_texts=plans.shard_texts,
        chunked=False,
        dropout=True,
        seed=5,
        lora=case.lora,
        frozen=frozen_paths(params, case.optim),
        vision=PICTURES,
    )
    mesh, specs = make_mesh(2, 1, jax.devices()[:1]), param_specs(params, MeshConfig())
    at = [next(step for step in range(9) if plans.plan(step).task == task) for task in range(len(plans.tasks))]
    *others, batch = (jax.device_put(plans.fill(plans.plan(step)), batch_sharding(mesh)) for step in at)
    params, step = jax.device_put(params, replicated(mesh)), jnp.int32(3)
    with ThreadPoolExecutor(2) as threads:
        compiler = Compiler(threads, replicated(mesh), {} if case.optimised else QUICK)

        def compiled_for(batch: Any) -> LayerwiseGradients:
            shapes = jax.eval_shape(lambda: (params, batch, step))
            cuts = [Chunks(1, case.together)] * 2  # the rows of a chunk are those of the arrays
            return compile_gradients(config, shapes[0], shapes[1], shapes[2], compiler, cuts, SEED)

        for other in others:
            compiled_for(other)
        compiled = compiled_for(batch)
        # Here the seed is data, in the one program it is compiled in.
        nats, _, ours = compiled(params, batch, step, np.asarray(config.seed, np.int32))
    whole = jax.jit(lambda p, b: gradients(p, b, step, config, mesh, specs), compiler_options=QUICK)
    loss, _, theirs = whole(params, batch)
    wanted = {path: leaf for path, leaf in flatten(theirs).items() if path not in config.frozen}
    return (float(nats), jax.device_get(ours)), (float(loss), jax.device_get(wanted)), compiled


def distance(ours: Tree, theirs: Tree) -> float:
    """Norm of the difference over the norm."""
    assert ours.keys() == theirs.keys()
    a, b = (
        np.concatenate([np.ravel(tree[path]) for path in sorted(tree)]).astype(np.float64) for tree in (ours, theirs)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def distances_in_float64() -> dict[str, float]:
    """Called by test_processes under float64."""
    found = {}
    for name in IN_FLOAT64:
        ours, theirs, _ = both(CASES[name], jnp.float64)
        found[name] = max(abs(ours[0] / theirs[0] - 1), distance(ours[1], theirs[1]))
    return found


FAST = ("bert",)
IN_FLOAT64 = (
    "two chunks at once, and one",
    "modernbert",
    "adapters",
    "separate documents",
    "images",
)
SYSTEM = (
    "xlm-r",
    "gte",
    "layers run again",
    "norms alone",
    "dense head",
    "frozen documents",
    "images",
    "in one chunk",
    "separate documents, in one chunk each",
    "matryoshka, both ways, learned temperature",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.system] * (name in SYSTEM)
            + [pytest.mark.slow] * (name not in FAST)
            + [pytest.mark.unoptimised] * (not CASES[name].optimised),
        )
        for name in CASES
    ],
)
def test_loss_and_gradient_are_those_of_one_program(name: str):
    ours, theirs, compiled = both(CASES[name], jnp.float32)
    assert ours[0] == pytest.approx(theirs[0], rel=2e-6)
    assert distance(ours[1], theirs[1]) < 1e-5
    if CASES[name].programs is not None:
        assert len({id(program) for program in programs_of_layers(compiled)}) == CASES[name].programs
    if name == "the lower half frozen":  # what is not trained is neither kept nor derived
        (chain,) = compiled.chains
        assert [link.backward is None for link in chain.links[1]] == [True, True, False, False]
        assert [link.kept_bytes > 0 for link in chain.links[1]] == [False, False, True, True]
    if name == "layers run again":
        kept = both(CASES["bert"], jnp.float32)[2]
        assert compiled.temporary_bytes < 0.7 * kept.temporary_bytes


def programs_of_layers(compiled: LayerwiseGradients) -> list[Any]:
    links = [link for link in compiled.links if link.stage.is_layer]
    return [program for link in links for program in (link.forward, link.backward) if program is not None]


@pytest.mark.slow
@pytest.mark.unoptimised
def test_layers_run_again_where_their_activations_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    case = CASES["bert"]
    plans, row = planner(case), jnp.zeros((1, 4), jnp.int32)
    params = jax.tree.map(jnp.float32, initial_params(drawn(case.tower, 0, row, row, row), case.loss))
    slots = plans.shard_queries, plans.shard_texts
    rule = optimizer(case.optim, params, 9)
    config = StepConfig(case.tower, rule, case.loss, *slots, chunked=False, dropout=False, seed=0)
    mesh, specs = make_mesh(2, 1, jax.devices()[:1]), param_specs(params, MeshConfig())
    batch = jax.device_put(plans.fill(plans.plan(0)), batch_sharding(mesh))
    seen = []
    for limit in (2**40, 2**10):
        monkeypatch.setattr(programs, "device_memory", lambda devices, limit=limit: limit)
        state = create_state(params, rule, mesh, specs)
        (step,) = programs.compile_steps(config, state, plans, mesh, specs)[0].values()
        seen.append((step.runs_layers_again, step.temporary_bytes, np.asarray(step(state, batch)[1])))
    (kept, more, plain), (again, less, other) = seen
    assert (kept, again) == (False, True) and less < more
    np.testing.assert_allclose(other, plain, rtol=1e-5)
    remarks = [memory_remarks([step], asked, free) for asked, free in ((False, 2**40), (True, 2**40), (True, 0))]
    assert [len(lines) for lines in remarks] == [1, 0, 1]
    assert "a second time" in remarks[0][0] and "batch.chunk_tokens" in remarks[2][0]
