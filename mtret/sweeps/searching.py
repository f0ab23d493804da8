"""A sweep whose settings are searched for: Optuna proposes, dev scores decide, what falls behind is ended early."""

import ast
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mtret.console import say
from mtret.errors import UserError, first_line
from mtret.evaluation import plots
from mtret.evaluation.plots import MEAN
from mtret.files import AnyPath, replace_bytes, replace_json, replace_text
from mtret.run_config import RunConfig, as_json, build
from mtret.runs.protocol import EvaluationConfig
from mtret.schema import to_json
from mtret.sweeps.definition import Between, Choice, Runs, Search, SearchPlan, SweepRun
from mtret.sweeps.leases import Lease, LeaseLost, held, take
from mtret.sweeps.runner import LEASES, LOOK_AGAIN_S, SCHEMA, SWEEP_FILE, Work, read_sweep_file, work_off
from mtret.sweeps.table import write_report
from mtret.tables import Table, to_markdown
from mtret.train.loop import OnDev, Stopped

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

ASK_AGAIN_S = 0.2
SEED_STEP = 100_003
SECRET = "given on the command line"  # in place of an address
JOURNAL = "study.journal"  # where no storage is given
WORDS = {"PRUNED": "ended, behind others", "RUNNING": "not finished", "FAIL": "failed"}  # of a trial that has no score
STARTUP_TRIALS = 5  # before trials are compared, and proposed by what was found

TrialWork = Callable[[SweepRun, AnyPath, Lease, OnDev], float]  # trains; returns the score to search by


class Pruned(Exception):
    """A trial fell behind the others."""


def open_study(storage: str, out: AnyPath, plan: SearchPlan) -> "Study":
    """The study of a folder, or of the address that its workers share. Raises UserError where Optuna is missing or the
    storage cannot be used."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError(f"a search needs Optuna ({error}); pip install 'mtret[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not storage and not isinstance(out, Path):
        raise UserError(f"{out}: a study cannot be kept in an object store; give --storage, the address of a database")
    out.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS) if plan.search.prune else optuna.pruners.NopPruner()
    try:
        return optuna.create_study(
            storage=storage or JournalStorage(JournalFileBackend(str(out / JOURNAL))),
            study_name=_name(plan),
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
        )
    except Exception as error:
        raise UserError(f"--storage={storage}: cannot be used ({type(error).__name__}: {first_line(error)})") from error


def _name(plan: SearchPlan) -> str:
    """Of the study in its storage, where others may be: the same search has the same, however many its trials."""
    about = {**_as_json(plan.search), "trials": 0, "seed": plan.seed, "config": as_json(plan.config)}
    return f"mtret-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}"


def note(out: AnyPath, plan: SearchPlan, storage: str) -> None:
    """Writes down what the search is. Raises UserError where the folder holds another."""
    path = out / SWEEP_FILE
    about = {
        "schema": SCHEMA,
        "baseline": "trial0",
        "evaluation": to_json(plan.about.evaluation),
        "hold_out": False,
        "runs": {},
        # An address with a password stays with those who know it.
        "search": {
            **_as_json(plan.search),
            "seed": plan.seed,
            "storage": SECRET if "@" in storage else storage,
            "config": as_json(plan.config),
        },
    }
    if path.exists():
        there = read_sweep_file(path)
        may_change = {"trials": 0, "storage": ""}
        ours, theirs = ({**each.get("search", {}), **may_change, **each["evaluation"]} for each in (about, there))
        if ours != theirs:
            raise UserError(f"{out}: holds another sweep; use another --out")
    replace_json(path, about)


def noted(out: AnyPath) -> tuple[SearchPlan, str] | None:
    """The search of a folder and its storage; None where the sweep is none."""
    there = read_sweep_file(out / SWEEP_FILE)
    if (search := there.get("search")) is None:
        return None
    if search["storage"] == SECRET:
        raise UserError(
            f"{out}: the address of its study has a password and was not written down; give the sweep's command again, "
            "which shows the table"
        )
    space = {
        key: Choice(tuple(map(ast.literal_eval, each["values"]))) if "values" in each else Between(**each)
        for key, each in search["space"].items()
    }
    about = Runs((), "trial0", build(EvaluationConfig, there["evaluation"], "evaluation"))
    found = Search(space, search["trials"], search["prune"], search["sampler_seed"])
    return SearchPlan(build(RunConfig, search["config"], ""), found, search["seed"], about), search["storage"]


def _as_json(search: Search) -> dict[str, Any]:
    space = {
        key: {"values": [repr(value) for value in each.values]} if isinstance(each, Choice) else asdict(each)
        for key, each in search.space.items()
    }
    return {"space": space, "trials": search.trials, "prune": search.prune, "sampler_seed": search.seed}


def run_search(plan: SearchPlan, out: AnyPath, storage: str, work: TrialWork, evaluate: Work, console: Console) -> None:
    """Trains trials until there are as many as asked for, by whomever, each by one worker; then evaluates the best and
    the baseline. A trial that fails is left out.

    Raises Stopped where a training was stopped; the same command goes on from there.
    """
    note(out, plan, storage)
    study = open_study(storage, out, plan)
    while True:
        did = False
        while (found := _next_trial(study, plan, out)) is not None:
            did = True
            number, values, lease = found
            setting = _setting(plan.search, values)
            with held(lease):
                say(console, f"trial {number} of {plan.search.trials}: {_in_words(setting)}", style="bold")

                def trained(on_dev: OnDev, number: int = number, setting: Any = setting, lease: Lease = lease) -> float:
                    run = plan.run(number, setting)
                    return work(run, out / run.name, lease, on_dev)

                _try(study, number, trained, console)
        if not did:
            if not _running(study):
                break
            time.sleep(LOOK_AGAIN_S)
    if not _complete(study):
        raise UserError(f"{out}: no trial was finished; the first errors are above")
    finalists = _finalists(study, plan)
    work_off(finalists, plan.about.split, out, evaluate, console)


def _next_trial(study: "Study", plan: SearchPlan, out: AnyPath) -> tuple[int, dict[str, Any], Lease] | None:
    """One that a worker left behind, or else a new one; None where there are as many as asked for. One worker looks at
    a time: what is proposed depends on the trials there are, and on nothing else; and between a trial's beginning and
    its lease nobody may take it for one that was left behind."""
    while (looking := take(out / LEASES / "asking")) is None:
        time.sleep(ASK_AGAIN_S)
    with held(looking):
        for left in _running(study):
            if (lease := take(out / LEASES / f"trial{left.number}")) is None:
                continue
            if left.number not in {each.number for each in _running(study)}:  # done since, and its lease released
                lease.release()
                continue
            if left.params.keys() == plan.search.space.keys():
                return left.number, dict(left.params), lease
            study.tell(left.number, state=_state("FAIL"))  # its worker ended while it was proposed
        if (trial := _ask(study, plan)) is None:
            return None
        lease = take(out / LEASES / f"trial{trial.number}")
        if lease is None:
            raise UserError(f"{out}: trial {trial.number} is another study's; use another --out")
        return trial.number, dict(trial.params), lease


def _ask(study: "Study", plan: SearchPlan) -> "Trial | None":
    """A new trial, the baseline first."""
    from optuna.samplers import TPESampler

    count = len(study.get_trials(deepcopy=False))
    if count == 0:
        study.enqueue_trial(_baseline(plan))
    elif count - len(study.get_trials(deepcopy=False, states=(_state("WAITING"),))) >= plan.search.trials:
        return None
    seed = (plan.search.seed * SEED_STEP + count) % 2**32
    study.sampler = TPESampler(n_startup_trials=STARTUP_TRIALS, constant_liar=True, seed=seed)
    return study.ask(_distributions(plan.search))


def _setting(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna chose, as values of the configuration."""
    chosen = {key for key, each in search.space.items() if isinstance(each, Choice)}
    return {key: ast.literal_eval(value) if key in chosen else value for key, value in values.items()}


def _try(study: "Study", number: int, work: Callable[[OnDev], float], console: Console) -> None:
    import optuna

    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def report(step: int, scores: Mapping[str, float]) -> None:
        trial.report(scores[MEAN], step)
        if trial.should_prune():
            raise Pruned

    try:
        study.tell(number, work(report))
    except Pruned:
        say(console, f"trial {number}: behind the others, ended")
        study.tell(number, state=_state("PRUNED"))
    except (Stopped, BrokenPipeError):
        raise
    except LeaseLost as error:
        say(console, str(error), style="yellow")
    except Exception as error:  # whatever it is, the others may do without
        say(console, f"trial {number} failed: {' '.join(str(error).split())[:300]}", style="red")
        study.tell(number, state=_state("FAIL"))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _running(study: "Study") -> "list[FrozenTrial]":
    return study.get_trials(deepcopy=False, states=(_state("RUNNING"),))


def _complete(study: "Study") -> "list[FrozenTrial]":
    """Best first."""
    trials = study.get_trials(deepcopy=False, states=(_state("COMPLETE"),))
    return sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))


def _baseline(plan: SearchPlan) -> dict[str, Any]:
    """The configuration's own values, where they lie within the space; Optuna proposes the others."""
    found: dict[str, Any] = {}
    for key, each in plan.search.space.items():
        value: Any = as_json(plan.config)
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(each, Choice):
            value = tuple(value) if isinstance(value, list) else value
            found |= {key: repr(value)} if value in each.values else {}
        elif value is not None and each.low <= value <= each.high:
            found[key] = value
    return found


def _distributions(search: Search) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, each in search.space.items():
        if isinstance(each, Choice):
            found[key] = CategoricalDistribution([repr(value) for value in each.values])
        elif isinstance(each.low, int) and isinstance(each.high, int):
            found[key] = IntDistribution(each.low, each.high, log=each.log)
        else:
            found[key] = FloatDistribution(each.low, each.high, log=each.log)
    return found


def _finalists(study: "Study", plan: SearchPlan) -> list[SweepRun]:
    """The baseline, where it was finished, and the best."""
    complete = _complete(study)
    chosen = {trial.number: trial for trial in complete if trial.number == 0} | {complete[0].number: complete[0]}
    return [plan.run(number, _setting(plan.search, trial.params)) for number, trial in chosen.items()]


def report_search(plan: SearchPlan, storage: str, out: AnyPath) -> list[Table]:
    """Writes table.md, search.png and, where the best is not the baseline, sweep.png; returns the tables to show."""
    study = open_study(storage, out, plan)
    if not _complete(study):
        return []
    table, finalists = _table(study, plan), _finalists(study, plan)
    runs = Runs(tuple(finalists), finalists[0].setting, plan.about.evaluation)
    tables = write_report(runs, out)
    written = (out / "table.md").read_text(encoding="utf-8") if tables else ""
    replace_text(out / "table.md", to_markdown(table) + "\n\n" + written)
    replace_bytes(out / "search.png", plots.png(_figure(study)))
    return [table, *tables]


def _table(study: "Study", plan: SearchPlan) -> Table:
    """All trials, the best first."""
    keys = [*plan.search.space]
    every = [trial for trial in study.get_trials(deepcopy=False) if trial.number < plan.search.trials]
    others = [trial for trial in every if trial.state.name in WORDS]
    rows = []
    for trial in [*_complete(study), *others]:
        last, score = max(trial.intermediate_values, default=0), trial.value
        if score is None:
            score = trial.intermediate_values.get(last)
        words = WORDS.get(trial.state.name, "")
        values = _setting(plan.search, trial.params)
        cells = [_shown(values.get(key)) for key in keys]
        cells += ["" if score is None else f"{score:.4f}", f"{words} at step {last}" if words and last else words]
        rows.append([f"trial{trial.number}", *cells])
    title = f"{len(rows)} of {plan.search.trials} trials by their best mean nDCG@10 on the dev samples"
    return Table(["", *keys, "dev", ""], [rows], title)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _in_words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in setting.items())


def _figure(study: "Study") -> Any:
    """Scores by trial, and how much of their differences each key is found to make."""
    complete = sorted(_complete(study), key=lambda trial: trial.number)
    scores = {trial.number: float(trial.value or 0.0) for trial in complete}
    return plots.search_figure(scores, _importances(study))


def _importances(study: "Study") -> dict[str, float]:
    """Of each key, by PED-ANOVA (Watanabe et al., 2304.10255); none of few trials."""
    import optuna

    if len(_complete(study)) < STARTUP_TRIALS:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
