"""Names of before, read for one release: command lines, configurations, a run that was begun, a model folder, results.

before_names.tar.xz was written by the code before the names changed (an encoder of 8 dimensions with random weights):
a run stopped after two of its four steps, the parameters that it ends with (whole.safetensors), an exported model of
the same training and its results.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mtret import cli
from mtret.errors import UserError
from mtret.model_folder import fingerprint
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.names import FLAGS, KEYS, config_before, config_now, flags_now, results_now, systems_now
from mtret.run_config import RunConfig, read_config
from mtret.schema import walk

Mtret = Callable[..., tuple[int, str, str]]
GONE = "now; the old names go with the next release"


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the archive was unpacked in, from which its files have relative paths."""
    with tarfile.open(Path(__file__).with_name("before_names.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_new_name_is_there_and_no_old_one() -> None:
    keys = {path for path, _, _ in walk(RunConfig)}
    assert set(KEYS.values()) <= keys and not set(KEYS) & keys
    for (command, old), new in FLAGS.items():
        flags = set(cli.COMMANDS[command].flags())
        assert new in flags and old not in flags


def test_a_configuration_is_read_by_either_name_and_not_by_both() -> None:
    old: dict[str, Any] = {"batch": {"groups": 8, "queries": 4}, "mesh": {"shard": ()}, "seed": 1}
    now = {"batch": {"shards": 8, "queries": 4}, "mesh": {"partition_rules": ()}, "seed": 1}
    assert config_now(old) == config_now(now) == now and config_before(now) == old
    with pytest.raises(UserError, match=r"config: batch\.groups and batch\.shards are the same key"):
        config_now({"batch": {"groups": 8, "shards": 8}})


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("evaluate", "--operands=bfloat16", "--matmul_dtype=bfloat16"),
        ("evaluate", "--operands", "--matmul_dtype"),
        ("train", "--nojudge", "--noevaluate"),
        ("train", "--judge=false", "--evaluate=false"),
        ("train", "-judge", "--evaluate"),
        ("train", "--peer_timeout=9", "--heartbeat_timeout=9"),
        ("compare", "--system=untuned", "--system=base"),
        ("report", "--metric=kind@10", "--metric=own_task@10"),
    ],
)
def test_old_flags_work_with_a_line(command: str, old: str, new: str) -> None:
    found, (line,) = flags_now(command, ["--model=x", old])
    assert found == ["--model=x", new]
    name, to = f"--{old.lstrip('-')}", new
    if command not in ("compare", "report"):  # whose flags are the same, and their values others
        name, to = name.partition("=")[0], new.partition("=")[0]
    assert line == f"{name} is {to} now; the old name goes with the next release"


def test_other_arguments_stay_as_they_are() -> None:
    given = ["--norm", "judge", "operands", "--split=test", "--note=judge", "system=untuned"]
    assert (
        flags_now("train", given) == (given, [])
        and flags_now("compare", given) == (given, [])
        and flags_now("merge", ["--judge"]) == (["--judge"], [])
    )


def test_the_fingerprint_of_an_encoder_did_not_move() -> None:
    """It keys caches and tells runs apart; with the names of its fields it would have changed."""
    encoder = hf.load("minilm", ModelConfig("minilm", attention="xla"))
    found = fingerprint.fingerprint(fingerprint.parts_of(encoder))
    assert found == "2ad34d4712fce27d302a8e04db4e40f385e213f2f8d769d52dc8e2d9cc59b490"
    assert fingerprint.key(encoder) == "530db441cbca02c6779d6716d041c1ce55cf29443c605c2f89c0d77c40b47649"


def test_only_older_schemas_are_translated() -> None:
    entry = {"judged_sha256": "x", "systems": {"hybrid": {}, "tuned": {}}, "differences": {"hybrid": 1}}
    raw = {"schema": "mtret.results/3", "systems": ["hybrid", "tuned"], "tasks": {"tuned": entry}}
    assert results_now(raw) is raw and results_now([1]) == [1]
    for schema in (1, 2):
        now = results_now(raw | {"schema": f"mtret.results/{schema}"})
        assert now["systems"] == ["hybrid_ranks", "finetuned"]
        assert now["tasks"]["tuned"] == {
            "data_sha256": "x",
            "systems": {"hybrid_ranks": {}, "finetuned": {}},
            "differences": {"finetuned": {"hybrid_ranks": 1}},
        }
    assert systems_now(["hybrid"])["tuned"] == "finetuned" and "hybrid" not in systems_now(["hybrid"])
    assert systems_now(["hybrid_ranks"])["hybrid"] == "hybrid_ranks"


@pytest.mark.slow
def test_a_run_that_was_begun_goes_on(before: Path, mtret: Mtret) -> None:
    code, said, error = mtret("train", "--config=config.py", "--workdir=unfinished")
    assert code == 0 and "resumed at step 2" in said
    assert " batch.groups is batch.shards now, " in error and error.endswith(f"{GONE}\n")
    found, wanted = load_file(before / "unfinished/model/model.safetensors"), load_file(before / "whole.safetensors")
    assert found.keys() == wanted.keys()
    # The loss does not depend on the keys' bias: its gradient is rounding, and Adam makes whole steps of that.
    for name, array in ((name, array) for name, array in wanted.items() if not name.endswith("self.key.bias")):
        np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)
    code, _, error = mtret("train", "--config=config.py", "--workdir=unfinished", "--config.batch.groups=4")
    assert code == 2 and "batch.shards: 4, there 8" in error and f"mtret: batch.groups is batch.shards {GONE}" in error


@pytest.mark.slow
def test_a_model_folder_and_its_results_are_read(before: Path, mtret: Mtret) -> None:
    assert mtret("verify", "exported")[0] == 0
    evaluated = mtret("evaluate", "--model=exported", "--suite=suite", "--split=test", "--noscann", "--out=now")
    assert evaluated[0] == 0, evaluated[2]
    old, now = (json.loads((before / folder / "results.json").read_text()) for folder in ("results", "now"))
    assert (old["schema"], now["schema"]) == ("mtret.results/1", "mtret.results/3")
    translated = results_now(old)
    assert translated["protocol"].keys() == now["protocol"].keys() - {"git", "fusion"}
    assert translated["systems"] == ["bm25", "base", "hybrid_ranks", "finetuned"]
    assert now["systems"] == ["bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid"]
    for key in ("fingerprint", "training_sha256", "suite_sha256", "weights_sha256", "base_form", "duplicate_texts"):
        assert translated["protocol"][key] == now["protocol"][key], key
    for name, task in now["tasks"].items():
        other = translated["tasks"][name]
        assert task.keys() - {"fusion"} == other.keys() and task["data_sha256"] == other["data_sha256"]
        assert {system: set(task["systems"][system]) for system in other["systems"]} == {
            system: set(each) for system, each in other["systems"].items()
        }
    for name, task in now["pooled"]["tasks"].items():
        assert task["systems"]["base"].keys() == translated["pooled"]["tasks"][name]["systems"]["base"].keys()
    code, said, error = mtret("compare", "before=results", "after=now", "--metric=ndcg@10")
    assert code == 0, error
    assert "no difference" in said and "BETTER" not in said and "WORSE" not in said
    code, said, _ = mtret("report", "before=results", "after=now", "--format=csv")
    assert code == 0 and "untuned" not in said and ",finetuned," in said


def test_an_old_configuration_is_the_same_one(before: Path) -> None:
    config = read_config("config.py")
    assert (config.batch.shards, config.optim.ema_decay, config.mesh.state_shards) == (8, 0.5, 1)
    assert config.optim.learning_rate_scales == (("tower/embeddings/.*", 0.5), (".*", 1.0))
    assert read_config("config.py", ["batch.groups=2"]).batch.shards == 2
