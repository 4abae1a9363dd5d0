"""Hyperparameter search: Optuna trials, run by any number of processes on one database."""

import hashlib
import os
import signal
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn_train.data.dataset import Dataset, read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.experiments.paths import SWEEPS
from mnist_cnn_train.experiments.search_space import Plan, Sweep
from mnist_cnn_train.pipeline.params import read_yaml
from mnist_cnn_train.pipeline.paths import PIPELINE, RAW_DATA
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import DivergedError, train

DATABASE = f"sqlite:///{SWEEPS}?timeout=60"  # seconds that a writer waits for others
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(sweep: Sweep, url: str, name: str, create: bool = True) -> optuna.Study:
    """Open the study `name`, or `create` it; MnistCnnError if it belongs to another search."""
    missing = MnistCnnError(f"there is no study {name!r} yet; run the sweep without --best")
    if not create and url == DATABASE and not SWEEPS.is_file():
        raise missing
    storage, plan = _open_storage(url, sweep.plan.patience), sweep.plan
    if not create and name not in optuna.get_all_study_names(storage):
        raise missing
    pruning, pruners = plan.pruning, optuna.pruners
    median = pruners.MedianPruner(pruning.warmup_trials, pruning.warmup_epochs + 1)
    study = optuna.create_study(
        storage=storage,
        sampler=_TrialSampler(plan),
        pruner=median if pruning.kind == "median" else pruners.NopPruner(),
        study_name=name,
        direction="minimize" if plan.objective == "validation_loss" else "maximize",
        load_if_exists=True,
    )
    fingerprint = _fingerprint(sweep)
    if study.user_attrs.get("fingerprint", fingerprint) != fingerprint:
        raise MnistCnnError(f"study {name!r} has other ranges, params or code; use another --name")
    study.set_user_attr("fingerprint", fingerprint)
    return study


def _open_storage(url: str, patience: int) -> optuna.storages.RDBStorage:
    SWEEPS.parent.mkdir(exist_ok=True)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    storage = partial(optuna.storages.RDBStorage, url, heartbeat_stale_trial_callback=retry)
    try:
        return storage(heartbeat_interval=max(1, patience // 4), grace_period=patience)
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise MnistCnnError(f"the database cannot be used: {reason}") from None


class _TrialSampler(optuna.samplers.TPESampler):
    """TPE sampler seeded by the trial's number, or all workers would draw the same settings."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = int(np.random.SeedSequence((self._plan.seed, trial.number)).generate_state(1)[0])
        super().__init__(seed=seed, n_startup_trials=self._plan.random_trials)


def _fingerprint(sweep: Sweep) -> str:
    """Return the SHA-256 of everything that trials depend on, other than the images."""
    deps = read_yaml(PIPELINE)["stages"]["train"]["deps"]
    code = [file.read_text() for dep in deps for file in sorted(Path(dep).rglob("*.py"))]
    plan = sweep.plan.model_dump_json(exclude={"trials", "patience"})
    base = sweep.base.model_dump_json(include={"data", "model", "train"})
    return hashlib.sha256("\0".join([plan, base, *code]).encode()).hexdigest()


def run_sweep(sweep: Sweep, url: str, name: str, jobs: int) -> optuna.Study:
    """Run trials in `jobs` processes until enough finished; MnistCnnError if they end early."""
    study, wanted = open_study(sweep, url, name), sweep.plan.trials
    finished = partial(study.get_trials, deepcopy=False, states=FINISHED)
    if len(finished()) < wanted:
        worker = partial(get_context("spawn").Process, target=_worker_main, daemon=True)
        workers = [worker(args=(sweep, url, name)) for _ in range(jobs)]
        # Ctrl-C ends only this process, and its daemons with it: their trials are run again.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in workers:
            process.start()
        signal.signal(signal.SIGINT, handler)
        for process in workers:
            process.join()
    if (count := len(finished())) < wanted:
        raise MnistCnnError(f"{count} of {wanted} trials finished; run the command again to resume")
    return study


def _worker_main(sweep: Sweep, url: str, name: str) -> None:
    split = sweep.base.data.split
    with exit_on_error("mnist_cnn_train"):
        digits = stratified_split(
            read_training_digits(RAW_DATA), split.train_images, split.validation_images, split.seed
        )
        enough = optuna.study.MaxTrialsCallback(sweep.plan.trials, FINISHED)
        objective = partial(run_trial, sweep=sweep, digits=digits)
        open_study(sweep, url, name).optimize(objective, callbacks=[enough])


def run_trial(trial: Trial, sweep: Sweep, digits: tuple[Dataset, Dataset]) -> float:
    """Train on the first of `digits`, and return the objective on the second.

    Raises:
        optuna.TrialPruned: if the trial is not promising, or the loss diverged.
    """
    params = sweep.suggest(trial)

    def after_epoch(entry: EpochLog) -> None:
        if (parent := parent_process()) and not parent.is_alive():
            sys.exit()  # without telling Optuna, so that another worker runs the trial again
        trial.set_user_attr("validation_accuracy", entry.validation_accuracy)
        trial.report(getattr(entry, sweep.plan.objective), entry.epoch)
        if entry.epoch < params.train.epochs and trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {entry.epoch}")

    try:
        with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
            log = train(*digits, params.model, params.train, after_epoch=after_epoch).log
    except DivergedError as error:
        raise optuna.TrialPruned(str(error)) from None
    except MnistCnnError as error:
        sys.exit(f"mnist_cnn_train: {error}")  # otherwise Optuna logs a traceback
    return float(getattr(log[-1], sweep.plan.objective))
