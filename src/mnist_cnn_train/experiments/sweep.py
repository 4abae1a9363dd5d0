"""A search for better settings with Optuna: many short trainings, by any number of workers.

The study lies in a database, through which workers on this or other machines share it. A trial
whose worker died is found by its missing heartbeat and done again, as another trial of the study
with the same settings; so each trial of the search is a chain of one or more trials of the study,
of which at most one is finished. The first chains, as many as are wanted, are those that count:
since numbers are given once and in order, all workers agree on that without any further lock.
"""

import copy
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.dataset import Dataset, read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.experiments.dvc import Setting, arguments, dvc, experiments
from mnist_cnn_train.experiments.paths import SWEEPS
from mnist_cnn_train.experiments.search_space import Plan, Range, Sweep, bounds
from mnist_cnn_train.pipeline.params import read_yaml
from mnist_cnn_train.pipeline.paths import PIPELINE, RAW_DATA
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import DivergedError, train

DATABASE = f"sqlite:///{SWEEPS}"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

# Names of user attributes: of a study, and of a trial.
FINGERPRINT = "fingerprint"
BEGUN, LAST, DIVERGED = "begun", "last", "diverged"


optuna.logging.set_verbosity(optuna.logging.ERROR)


# Heartbeats and the multivariate sampler have been called experimental for years.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(sweep: Sweep, url: str, name: str, make: bool = True) -> optuna.Study:
    """The study `name` in the database at `url`; where there is none, `make` it.

    Raises:
        MnistCnnError: it was made with another plan, other params or other code; it is not there;
            or the database cannot be used.
    """
    plan = sweep.plan
    missing = MnistCnnError(f"there is no study {name!r} yet; run the sweep without --best")
    if not make and url == DATABASE and not SWEEPS.is_file():
        raise missing
    with _told_database(url):
        storage = _open_storage(url, plan.patience)
        if not make and name not in optuna.get_all_study_names(storage):
            raise missing
        study = optuna.create_study(
            storage=storage,
            sampler=_SeededByTrial(plan),
            pruner=_pruner(plan),
            study_name=name,
            direction="minimize" if plan.objective == "validation_loss" else "maximize",
            load_if_exists=True,
        )
        fingerprint = _fingerprint(sweep)
        known = study.user_attrs.get(FINGERPRINT)
        if known is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(FINGERPRINT, fingerprint)
            known = fingerprint
    others = [part for part in fingerprint if fingerprint[part] != (known or {}).get(part)]
    if others:
        raise MnistCnnError(
            f"the study {name!r} was made with other {' and '.join(others)}; "
            "give this one another --name"
        )
    return study


def _fingerprint(sweep: Sweep) -> dict[str, str]:
    """The SHA-256 of what the results of a study depend on."""
    code = [name for name in read_yaml(PIPELINE)["stages"]["train"]["deps"] if name[:4] == "src/"]
    # How many trials are wanted, and for how long a worker may be silent, can change on the way.
    plan = sweep.plan.model_dump_json(exclude={"trials", "patience"})
    params = (
        part.model_dump_json() for part in (sweep.base.data, sweep.base.model, sweep.base.train)
    )
    return {
        "ranges or settings": _digest([plan]),
        "params": _digest(params),
        "code": _digest(sha256(file) for name in code for file in _modules(Path(name))),
    }


def _modules(code: Path) -> list[Path]:
    """The files that a stage means by a dependency of its code: a file, or a package."""
    return sorted(code.rglob("*.py")) if code.is_dir() else [code]


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _open_storage(url: str, patience: int) -> RDBStorage:
    if url == DATABASE:
        SWEEPS.parent.mkdir(exist_ok=True)
    local = make_url(url).get_backend_name() == "sqlite"
    for attempt in range(3):
        try:
            return RDBStorage(
                url,
                # Writers of SQLite take turns.
                engine_kwargs={"connect_args": {"timeout": 60}} if local else {},
                heartbeat_interval=max(1, patience // 4),
                grace_period=patience,
            )
        except DatabaseError:  # two at once may try to make the tables
            if attempt == 2:
                raise
            time.sleep(1)
    raise AssertionError


@contextmanager
def _told_database(url: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        reason = error.__cause__ or error
        reason = getattr(reason, "orig", None) or reason
        try:
            shown = make_url(url).render_as_string(hide_password=True)
        except SQLAlchemyError:
            shown = "--storage"
        raise MnistCnnError(
            f"the database {shown} cannot be used: {' '.join(str(reason).split())}"
        ) from None


def _pruner(plan: Plan) -> BasePruner:
    if plan.pruning.kind == "none":
        return NopPruner()
    return MedianPruner(
        n_startup_trials=plan.pruning.warmup_trials, n_warmup_steps=plan.pruning.warmup_epochs + 1
    )


class _SeededByTrial(BaseSampler):
    """The tree-structured Parzen estimator, seeded for each trial by its place.

    That is its number, less those that do another again. A sampler that is seeded once would draw
    the same again in each worker, and after each interruption.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        before = study.get_trials(deepcopy=False)[: _origin(trial)]
        place = sum(other.number == _origin(other) for other in before)
        self._sampler = TPESampler(
            n_startup_trials=self._plan.random_trials,
            seed=int(np.random.SeedSequence((self._plan.seed, place)).generate_state(1)[0]),
            multivariate=True,
            constant_liar=True,  # keep away from what other workers are trying
        )
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


# Which trials count


def _origin(trial: FrozenTrial) -> int:
    """The number of the trial that this one does again, or its own."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def chains(trials: Iterable[FrozenTrial], wanted: int) -> dict[int, list[FrozenTrial]]:
    """The first `wanted` trials of the search, each with those that did it again, by number."""
    found: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        found[_origin(trial)].append(trial)
    return {origin: found[origin] for origin in sorted(found)[:wanted]}


def finished(trials: Iterable[FrozenTrial], wanted: int) -> list[FrozenTrial]:
    """Those of the first `wanted` that are complete or pruned, by number."""
    counted = [trial for chain in chains(trials, wanted).values() for trial in chain]
    return [trial for trial in counted if trial.state in FINISHED]


def _is_surplus(trial: FrozenTrial, trials: Sequence[FrozenTrial], wanted: int) -> bool:
    """Whether `trial` came about because two workers began, or began again, one at once."""
    # Those of smaller numbers are all there by now.
    chain = chains(trials[: trial.number + 1], wanted).get(_origin(trial))
    if chain is None:
        return True
    return any(other.state not in (TrialState.FAIL, TrialState.WAITING) for other in chain[:-1])


# The workers


class _SurplusError(Exception):
    """The trial is one more than wanted."""


class _Objective:
    """Trains as the train stage does, and gives what is to be minimized or maximised."""

    def __init__(self, sweep: Sweep, name: str, storage: RDBStorage, parent: int) -> None:
        split = sweep.base.data.split
        self._training, self._validation = stratified_split(
            read_training_digits(RAW_DATA), split.train_images, split.validation_images, split.seed
        )
        self._sweep, self._name = sweep, name
        self._storage, self._parent = storage, parent
        self.given_up = False  # by other workers, which saw no sign of life

    def __call__(self, trial: Trial) -> float:
        self.given_up = False
        try:
            return self._value(trial)
        except optuna.exceptions.UpdateFinishedTrialError:
            self.given_up = True
            raise

    def _value(self, trial: Trial) -> float:
        # Without a first heartbeat, a trial never counts as dead.
        self._storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(BEGUN, trial.number)
        trials = trial.study.get_trials(deepcopy=False)
        if _is_surplus(trials[trial.number], trials, self._sweep.plan.trials):
            raise _SurplusError
        params = self._sweep.params(_suggest(trial, self._sweep))
        settings = (
            *(params.model.model_dump_json(), params.train.model_dump_json()),
            f"{self._name} {_origin(trials[trial.number])}",  # not shared with any other trial
        )
        digits: tuple[Dataset, Dataset] = self._training, self._validation
        checkpoint = Checkpoint.of(settings, digits)
        try:
            with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
                after_epoch = self._reporting(trial, params.train.epochs)
                trained = train(
                    *digits, params.model, params.train, checkpoint, after_epoch=after_epoch
                )
        except DivergedError:
            trial.set_user_attr(DIVERGED, True)
            checkpoint.remove()
            raise optuna.TrialPruned from None
        except optuna.TrialPruned:
            checkpoint.remove()
            raise
        value = self._note(trial, trained.log[-1])
        checkpoint.remove()
        return value

    def _reporting(self, trial: Trial, epochs: int) -> Callable[[EpochLog], None]:
        def after_epoch(entry: EpochLog) -> None:
            if os.getppid() != self._parent:
                raise KeyboardInterrupt  # nobody watches any more
            trial.report(self._note(trial, entry), entry.epoch)
            if entry.epoch < epochs and trial.should_prune():
                raise optuna.TrialPruned

        return after_epoch

    def _note(self, trial: Trial, entry: EpochLog) -> float:
        """Keep what the epoch gave with the trial; its value."""
        trial.set_user_attr(LAST, asdict(entry))
        value: float = getattr(entry, self._sweep.plan.objective)
        return value


def _suggest(trial: Trial, sweep: Sweep) -> dict[str, Setting]:
    changes: dict[str, Setting] = {}
    for key, space in sweep.spaces.items():
        if not isinstance(space, Range):
            # Of None, which Optuna takes too, there is none in params.yaml.
            changes[key] = cast("Setting", trial.suggest_categorical(key, space))
            continue
        kind = sweep.kind(key)
        low, high = bounds(space, kind)
        if kind is int:
            changes[key] = trial.suggest_int(
                key, int(low), int(high), step=int(space.step) or 1, log=space.log
            )
        else:
            changes[key] = trial.suggest_float(
                key, float(low), float(high), step=space.step or None, log=space.log
            )
    return changes


def _worker_main(sweep: Sweep, url: str, name: str, parent: int) -> None:
    """Do trials until as many as are wanted are finished: what the process of a worker runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with exit_on_error("mnist-cnn"):
        try:
            with _told_database(url):
                _do_trials(sweep, url, name, parent)
        except KeyboardInterrupt:
            sys.exit(130)


def _do_trials(sweep: Sweep, url: str, name: str, parent: int) -> None:
    wanted, patience = sweep.plan.trials, sweep.plan.patience
    study = open_study(sweep, url, name)
    objective = _Objective(sweep, name, _open_storage(url, patience), parent)
    idle = _Idle(patience)
    while os.getppid() == parent:
        fail_stale_trials(study)
        idle.fail(study)
        trials = study.get_trials(deepcopy=False)
        _queue_again(study, trials, wanted)
        started = chains(trials, wanted)
        if len(started) < wanted or any(trial.state == TrialState.WAITING for trial in trials):
            try:
                # With `ask` and `tell`, there would be no heartbeats.
                study.optimize(objective, n_trials=1, catch=(_SurplusError,))
            except Exception:
                if not objective.given_up:
                    raise
        elif len(finished(trials, wanted)) == wanted:
            return
        else:
            time.sleep(1)  # others are at work


def _queue_again(study: optuna.Study, trials: Sequence[FrozenTrial], wanted: int) -> None:
    """Have those trials done again that count, and of which every attempt has failed.

    Two workers may do so at once; `_is_surplus` then drops one of the attempts.
    """
    again = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    for chain in chains(trials, wanted).values():
        if all(trial.state == TrialState.FAIL for trial in chain):
            again(study, copy.deepcopy(chain[-1]))


class _Idle:
    """Fails trials whose worker died before the first heartbeat, which Optuna waits for for ever.

    The clocks of the workers may differ, so each waits for itself.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._since: dict[int, float] = {}

    def fail(self, study: optuna.Study) -> None:
        now = time.monotonic()
        idle = [
            trial.number
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            # What is done again brings the attributes of the first attempt along.
            if trial.user_attrs.get(BEGUN) != trial.number
        ]
        self._since = {number: self._since.get(number, now) for number in idle}
        for number, since in self._since.items():
            if now - since > self._patience:
                study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


# What the command does


def run_sweep(sweep: Sweep, url: str, name: str, jobs: int) -> optuna.Study:
    """Have `jobs` processes do trials until as many as are wanted are finished; tell of each.

    Raises:
        MnistCnnError: the study cannot be used, or the workers ended before.
    """
    wanted = sweep.plan.trials
    study = open_study(sweep, url, name)
    told = {trial.number for trial in finished(study.get_trials(deepcopy=False), wanted)}
    if len(told) == wanted:
        return study
    context = multiprocessing.get_context("spawn")
    given = (sweep, url, name, os.getpid())
    workers = [context.Process(target=_worker_main, args=given, daemon=True) for _ in range(jobs)]
    # Ctrl-C reaches all processes of a terminal, but only this one is to answer.
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGINT, answer)
    alive = list(workers)
    try:
        with tqdm(
            total=wanted, initial=len(told), unit="trial", leave=False, disable=None
        ) as progress:
            while alive:
                wait([worker.sentinel for worker in alive], timeout=1)
                ended = [worker for worker in alive if not worker.is_alive()]
                alive = [worker for worker in alive if worker not in ended]
                with _told_database(url):
                    done = finished(study.get_trials(deepcopy=False), wanted)
                for trial in done:
                    if trial.number not in told:
                        told.add(trial.number)
                        tqdm.write(described(trial))
                        progress.update()
                for worker in ended:
                    if worker.exitcode is not None and worker.exitcode < 0:
                        cause = signal.Signals(-worker.exitcode).name
                        tqdm.write(f"a worker was ended by {cause}; its trial is done again")
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    if len(told) < wanted:
        raise MnistCnnError(
            f"the workers ended with {len(told)} of {wanted} trials finished; the same command "
            "resumes from there"
        )
    return study


def described(trial: FrozenTrial) -> str:
    """A line on a trial that is finished."""
    again = "" if _origin(trial) == trial.number else f" ({_origin(trial)} again)"
    settings = ", ".join(f"{_shorten(key)} {_shown(value)}" for key, value in trial.params.items())
    return f"trial {trial.number}{again}: {', '.join(_outcome(trial))}; {settings}"


def _outcome(trial: FrozenTrial) -> list[str]:
    if trial.user_attrs.get(DIVERGED):
        return ["diverged"]
    last = trial.user_attrs[LAST]
    stopped = [f"stopped after epoch {last['epoch']}"] if trial.state == TrialState.PRUNED else []
    loss, accuracy = last["validation_loss"], last["validation_accuracy"]
    return [*stopped, f"validation loss {loss:.4f}", f"accuracy {accuracy:.2%}"]


def _shorten(key: str) -> str:
    return key.removeprefix("train.")


def _shown(value: Setting) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def find_best(study: optuna.Study) -> FrozenTrial:
    """The best trial of those that were not stopped.

    Raises:
        MnistCnnError: there is none.
    """
    try:
        return study.best_trial
    except ValueError:
        raise MnistCnnError(
            f"the study {study.study_name!r} has no trial that ran to its end; run "
            "`python -m mnist_cnn_train sweep`, with more trials in sweep.yaml"
        ) from None


def summary(study: optuna.Study, wanted: int, shown: int = 10) -> Iterator[str]:
    """The best trials as a table, and the settings of the best one as in recipes.yaml."""
    best = find_best(study)
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    done = finished(study.get_trials(deepcopy=False), wanted)
    whole = [trial for trial in done if trial.value is not None and trial.state == FINISHED[0]]
    ranked = sorted(whole, key=lambda trial: sign * (trial.value or 0.0))
    rows = [["trial", "loss", "accuracy", *map(_shorten, best.params)]]
    for trial in ranked[:shown]:
        last = trial.user_attrs[LAST]
        figures = f"{last['validation_loss']:.4f}", f"{last['validation_accuracy']:.2%}"
        rows.append([str(trial.number), *figures, *map(_shown, trial.params.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    early = len(done) - len(whole)
    yield f"{len(done)} trials, of which {early} were stopped early; the best is {best.number}:"
    yield from (f"  {key}: {json.dumps(value)}" for key, value in best.params.items())


def take_best(study: optuna.Study, experiment: str) -> dict[str, Any]:
    """Run the pipeline with the settings of the best trial, as a DVC experiment.

    It runs in a folder of its own, and leaves this one as it is. Nothing is changed in
    params.yaml but what was searched: the run has all its epochs, and has to pass the gate.

    Returns:
        The content of its metrics files, by their paths.

    Raises:
        MnistCnnError: there is no such trial, or a stage refused.
    """
    changes = find_best(study).params
    if experiment in experiments():
        dvc("exp", "remove", experiment)
    try:
        dvc(
            *("--wait-for-lock", "exp", "run", "--temp", "--name", experiment),
            *arguments(changes),
        )
    except MnistCnnError as error:
        raise MnistCnnError(f"{experiment} is not kept: {error}") from None
    return experiments()[experiment]
