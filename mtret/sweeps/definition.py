"""A sweep file: one configuration, the settings that differ from it, and their seeds."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product as every_choice
from typing import Any

from mtret.errors import UserError, nearest
from mtret.run_config import RunConfig, as_json, build, called, read_config, with_overrides
from mtret.runs.protocol import EvaluationConfig

Setting = Mapping[str, Any]  # by key of the configuration, such as "optim.learning_rate"
SEED, HELD_OUT = "seed", "mixture.hold_out"
WITHOUT = "_without-"  # behind a setting's name, before the family that it leaves out


def grid(choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values of these keys, the last key's changing fastest."""
    return [dict(zip(choices, values, strict=True)) for values in every_choice(*_listed(choices).values())]


def zip_(choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first value of every key, the second of every key, and so on."""
    listed = _listed(choices)
    if len({len(values) for values in listed.values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in listed.items())
        raise UserError(f"zip_: needs as many values of each key; {counts}")
    return [dict(zip(listed, values, strict=True)) for values in zip(*listed.values(), strict=True)]


def product(*parts: Sequence[Setting]) -> list[dict[str, Any]]:
    """Every combination of settings of these lists."""
    found = []
    for chosen in every_choice(*parts):
        keys = [key for setting in chosen for key in setting]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise UserError(f"product: {twice} is set by two of the lists")
        found.append({key: value for setting in chosen for key, value in setting.items()})
    return found


def _listed(choices: Mapping[str, Any]) -> dict[str, list[Any]]:
    for key, values in choices.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UserError(f"{key}: {values!r} is not a list of values")
    return {key: list(values) for key, values in choices.items()}


@dataclass(frozen=True)
class Between:
    """A range of numbers, both ends included; whole numbers where both ends are."""

    low: float
    high: float
    log: bool = False  # whether a factor counts the same everywhere in it


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Search:
    """A space of settings, of which so many are tried; the first is the configuration's own."""

    space: Mapping[str, Between | Choice]
    trials: int
    prune: bool = True  # whether trials that fall behind the others' dev scores are ended
    seed: int = 0  # of what is proposed


def between(low: Any, high: Any, log: bool = False) -> Between:
    """A range for a key of `search`, both ends included; `log`: a factor counts the same everywhere in it."""
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high))
    if not numbers or not low < high or (log and low <= 0):
        raise UserError(f"between: needs a smaller and a larger number{', above 0' * log}, got {low!r} and {high!r}")
    return Between(low, high, log)


def choice(*values: Any) -> Choice:
    """One of these values, for a key of `search`."""
    if len(values) < 2:
        raise UserError(f"choice: needs two values or more, got {values!r}")
    return Choice(values)


def search(space: Mapping[str, Any], trials: int, prune: bool = True, seed: int = 0) -> Search:
    """So many settings that Optuna proposes (TPE), the better by dev scores the more. `prune`: a trial that is below
    the median of the others at the same step is ended."""
    for key, each in space.items():
        if not isinstance(each, Between | Choice):
            raise UserError(f"search: {key} must be between(...) or choice(...), got {each!r}")
    if not space or isinstance(trials, bool) or not isinstance(trials, int) or trials < 2:
        raise UserError(f"search: needs keys to search and two trials or more, got {len(space)} and {trials!r}")
    return Search(dict(space), trials, prune, seed)


@dataclass(frozen=True)
class Sweep:
    """What `get_sweep()` returns."""

    config: Any  # a configuration file, path.py or path.py:argument; or what its get_config() would return
    runs: Any  # a list of settings, which are named by what they differ in; settings by name; or a `search(...)`
    seeds: Sequence[Any] = (0,)  # each setting is trained with each of them
    baseline: str = ""  # the setting that others are compared with; the first if none is named
    split: str = "test"  # that all are evaluated on
    tasks: Sequence[str] = ()  # that are evaluated; none: all that have the split
    sample: int = 0  # of each task at most so many queries over few documents, as `mtret evaluate --sample`; 0: all
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # other flags of `mtret evaluate`: {"pooled": False}


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep."""

    setting: str
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """Also its folder's, below the sweep's."""
        return f"{self.setting}/seed{self.seed}"


@dataclass(frozen=True)
class Runs:
    """All of a sweep, its configurations read."""

    every: tuple[SweepRun, ...]
    baseline: str
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hold_out: bool = False  # each run leaves one family out, and is about that

    @property
    def split(self) -> str:
        """That all are evaluated on."""
        return self.evaluation.split

    @property
    def settings(self) -> dict[str, list[SweepRun]]:
        """By name, the baseline first."""
        found: dict[str, list[SweepRun]] = {self.baseline: []}
        for run in self.every:
            found.setdefault(run.setting, []).append(run)
        return found

    @property
    def sources(self) -> tuple[str, ...]:
        """The encoders that runs start from."""
        return tuple(dict.fromkeys(run.config.model.source for run in self.every))

    def chosen(self, only: Sequence[str], shard: tuple[int, int]) -> list[SweepRun]:
        """Those that are `only` asked for by name, of a run or of a setting; of them every `shard[1]`th, from
        `shard[0]`. Raises UserError for a name that is none."""
        known = {*self.settings, *(run.name for run in self.every)}
        for name in only:
            if name not in known:
                raise UserError(f"--only: no run '{name}'.{nearest(name, known)} --list shows them")
        found = [run for run in self.every if not only or {run.name, run.setting} & {*only}]
        return found[shard[0] :: shard[1]]


@dataclass(frozen=True)
class SearchPlan:
    """A sweep that searches."""

    config: RunConfig  # the baseline, of which trials change what is searched
    search: Search
    seed: int
    about: Runs  # without runs: what is evaluated in the end

    @property
    def sources(self) -> tuple[str, ...]:
        """The encoders that trials start from."""
        own = self.search.space.get("model.source")
        return own.values if isinstance(own, Choice) else (self.config.model.source,)

    def run(self, number: int, setting: Mapping[str, Any]) -> SweepRun:
        """A trial's training. Raises UserError for a setting that the configuration does not take."""
        given = [f"{key}={value!r}" for key, value in {**setting, SEED: self.seed}.items()]
        name = f"trial{number}"
        return SweepRun(name, self.seed, _config(as_json(self.config), name, {}, given))


Families = Callable[[RunConfig], Sequence[str]]  # of the tasks that a configuration trains on


def read_sweep(
    source: str, overrides: Sequence[str] = (), suite: str = "", families: Families | None = None
) -> Runs | SearchPlan:
    """The runs of a file that defines `get_sweep()`, or its search, with `overrides` put into the configuration of
    each.

    With `families` every setting becomes one for each of them, which leaves it out.

    Raises UserError where the file is no sweep, and for a run whose configuration is wrong, naming it.
    """
    sweep = called(source, "get_sweep", "a sweep")
    if not isinstance(sweep, Sweep):
        raise UserError(f"{source}: get_sweep() must return a mtret.sweeps.Sweep, got {type(sweep).__name__}")
    seeds = [*sweep.seeds]
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise UserError(f"{source}: seeds must be whole numbers, got {sweep.seeds!r}")
    if len({*seeds}) < len(seeds):
        raise UserError(f"{source}: a seed is given twice, in {tuple(seeds)}")
    put = [*overrides, *([f"suite={suite!r}"] if suite else [])]
    evaluation = _evaluation(sweep, source)
    if isinstance(sweep.runs, Search):
        return _search_plan(sweep, source, put, evaluation, families is not None)
    named = _named(sweep.runs, source)
    baseline = sweep.baseline or next(iter(named))
    if baseline not in named:
        raise UserError(f"{source}: baseline '{baseline}' is none of its runs.{nearest(baseline, named)}")
    if families is not None:
        named = dict(_without_each(named, lambda name, setting: _config(sweep.config, name, setting, put), families))
        baseline = next(iter(named))
    runs = tuple(
        SweepRun(name, seed, _config(sweep.config, name, {**setting, SEED: seed}, put))
        for name, setting in named.items()
        for seed in seeds
    )
    _check_different(runs, source)
    return Runs(runs, baseline, evaluation, families is not None)


def _evaluation(sweep: Sweep, source: str) -> EvaluationConfig:
    """Of all runs. Raises UserError for what `mtret evaluate` does not take."""
    if sweep.split not in ("dev", "test"):
        raise UserError(f"{source}: split is 'dev' or 'test', not {sweep.split!r}")
    if isinstance(sweep.sample, bool) or not isinstance(sweep.sample, int) or sweep.sample < 0:
        raise UserError(f"{source}: sample must be a number of queries, got {sweep.sample!r}")
    own = {"split": sweep.split, "tasks": tuple(sweep.tasks), "sample": str(sweep.sample or "")}
    if twice := own.keys() & {*sweep.evaluation}:
        raise UserError(f"{source}: evaluation: give {twice.pop()} to the sweep itself")
    known = {each.name for each in fields(EvaluationConfig)} - {"pool"}
    for name in sweep.evaluation:
        if name not in known:
            raise UserError(f"{source}: evaluation: mtret evaluate has no '{name}'.{nearest(name, known)}")
    return build(EvaluationConfig, {**own, **sweep.evaluation}, "evaluation")


def _search_plan(
    sweep: Sweep, source: str, put: Sequence[str], evaluation: EvaluationConfig, hold_out: bool
) -> SearchPlan:
    if len(sweep.seeds) > 1 or sweep.baseline or hold_out:
        raise UserError(
            f"{source}: a search has one seed, its baseline is the configuration itself, and no family is held out for "
            "each; leave seeds, baseline and --hold_out to a sweep of what it found"
        )
    about = Runs((), "trial0", evaluation)
    plan = SearchPlan(_config(sweep.config, "trial0", {}, put), sweep.runs, sweep.seeds[0], about)
    for key, each in sweep.runs.space.items():  # a mistake in a key is found before anything is trained
        for value in each.values if isinstance(each, Choice) else (each.low, each.high):
            plan.run(0, {key: value})
    return plan


def _without_each(
    named: Mapping[str, Setting], config: Callable[[str, Setting], RunConfig], families: Families
) -> Iterator[tuple[str, Setting]]:
    """Every setting without each family of what it trains on, beside what it leaves out anyway."""
    for name, setting in named.items():
        whole = config(name, setting)
        for family in families(whole):
            yield f"{name}{WITHOUT}{_shown(family)}", {**setting, HELD_OUT: (*whole.mixture.hold_out, family)}


def _config(base: Any, name: str, setting: Setting, put: Sequence[str]) -> RunConfig:
    given = [*(f"{key}={value!r}" for key, value in setting.items()), *put]
    try:
        if isinstance(base, str):
            return read_config(base, given)
        return build(RunConfig, with_overrides(base.to_dict() if hasattr(base, "to_dict") else base, given), "")
    except UserError as error:
        raise UserError(f"run '{name}': {error}") from error


def _named(runs: Any, source: str) -> dict[str, Setting]:
    """By name. Raises UserError where two are called alike, or a setting is none."""
    if not isinstance(runs, Mapping | Sequence) or isinstance(runs, str) or not runs:
        raise UserError(f"{source}: runs must be a list of settings, or settings by name, got {runs!r}")
    settings = [*runs.values()] if isinstance(runs, Mapping) else [*runs]
    for setting in settings:
        if not isinstance(setting, Mapping) or not all(isinstance(key, str) for key in setting):
            raise UserError(f"{source}: a setting is {{'optim.learning_rate': 1e-4, ...}}, not {setting!r}")
        if SEED in setting:
            raise UserError(f"{source}: 'seed' stands in a setting; give seeds=({setting[SEED]}, ...) to the sweep")
    names = [str(name) for name in runs] if isinstance(runs, Mapping) else [*_names(settings)]
    for name in names:
        if re.fullmatch(r"[\w.+-]+", name) is None or name.startswith("."):
            raise UserError(f"{source}: '{name}' cannot be a folder's name; letters, digits and any of -_.+ can")
        if names.count(name) > 1:
            raise UserError(f"{source}: two runs are called '{name}'; give names: runs={{'first': {{...}}, ...}}")
    return dict(zip(names, settings, strict=True))


def _names(settings: Sequence[Setting]) -> Iterator[str]:
    """`learning_rate-0.0001_queries-64`: what each differs by from others."""
    every = list(dict.fromkeys(key for setting in settings for key in setting))
    absent = object()
    differing = [k for k in every if len({repr(setting.get(k, absent)) for setting in settings}) > 1] or every
    ends = [key.rpartition(".")[2] for key in differing]
    for setting in settings:
        parts = [
            f"{key if ends.count(end) > 1 else end}-{_shown(setting[key])}"
            for key, end in zip(differing, ends, strict=True)
            if key in setting
        ]
        yield "_".join(parts) or "plain"


def _shown(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "none"


def _check_different(runs: Sequence[SweepRun], source: str) -> None:
    """Raises UserError for two settings that are one: seeds of it would count twice."""
    first: dict[str, str] = {}
    for run in runs:
        same = first.setdefault(repr(run.config), run.setting)
        if same != run.setting:
            raise UserError(f"{source}: '{same}' and '{run.setting}' are the same configuration; leave one out")
