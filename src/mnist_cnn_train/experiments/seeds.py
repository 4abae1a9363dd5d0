"""Recipes over several seeds: run as DVC experiments, then summed up.

Each run is a `dvc exp run --temp`, so it works in a folder of its own, and several go at once.
What ran before, with the same code, data and settings, comes from DVC's cache within seconds: a
series that was interrupted resumes where it was. DVC's queue would do the same, but a worker that
is killed can leave a task behind that `dvc exp show` stumbles over.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.dvc import Setting, arguments, dvc, experiments, settings
from mnist_cnn_train.experiments.paths import ABLATION, ROBUST, SEEDS
from mnist_cnn_train.experiments.recipes import Recipes
from mnist_cnn_train.pipeline.params import changed, read_yaml
from mnist_cnn_train.pipeline.paths import ACCURACY, PARAMS, VALIDATION

Metrics = dict[str, float]


@dataclass(frozen=True)
class Group:
    """How the recipes of a group in recipes.yaml are evaluated."""

    name: str
    stage: str  # the last one to run, with all that it depends on
    source: Path  # the metrics file that it writes
    metrics: tuple[str, ...]  # those of its figures that count
    report: Path


GROUPS = {
    group.name: group
    for group in (
        Group(
            "published",
            "evaluate",
            ACCURACY,
            ("accuracy", "negative_log_likelihood", "calibration_error"),
            SEEDS,
        ),
        Group(
            "robust",
            "evaluate",
            ACCURACY,
            (
                "accuracy",
                "corruption_error",
                "held_out_corruption_error",
                "held_out_calibration_error",
            ),
            ROBUST,
        ),
        Group(
            "ablation", "train", VALIDATION, ("validation_accuracy", "validation_loss"), ABLATION
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One recipe with one seed; `changes` are its settings by dotted key, with the seed's."""

    group: str
    recipe: str
    seed: int
    changes: dict[str, Setting]

    @property
    def name(self) -> str:
        """The name of its DVC experiment."""
        return f"{self.group}-{self.recipe}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run gave: the figures that count, and the SHA-256 of the weights they belong to."""

    metrics: Metrics
    weights_sha256: str


def run_seeds(
    recipes: Recipes, group: Group, seeds: int, jobs: int
) -> dict[str, dict[int, Result]]:
    """The result of each recipe with each of the seeds from 0.

    Args:
        recipes: what `read_recipes` gives.
        group: what to run, and which metrics to take.
        seeds: how many values of `train.seed`.
        jobs: how many run at once.

    Raises:
        MnistCnnError: a run failed, or DVC did, or it mixed up their settings.
    """
    # The results of every seed are wanted, also of one below the gate.
    runs = [
        Run(group.name, recipe, seed, {"evaluate.min_accuracy": 0.0, **changes, "train.seed": seed})
        for recipe, changes in recipes.items()
        for seed in range(seeds)
    ]
    outdated = experiments().keys() & {run.name for run in runs}
    if outdated:
        dvc("exp", "remove", *sorted(outdated))
    failures = _run_all(runs, group.stage, jobs)
    if failures:
        raise MnistCnnError(
            f"{len(failures)} of {len(runs)} runs failed; the others are kept:\n  "
            + "\n  ".join(failures)
        )
    check_settings(runs)
    measured = experiments()
    return {
        recipe: {
            run.seed: _result(measured[run.name], group) for run in runs if run.recipe == recipe
        }
        for recipe in recipes
    }


def _result(files: dict[str, Any], group: Group) -> Result:
    figures = files[str(group.source)]["data"]
    return Result(
        metrics={name: figures[name] for name in group.metrics},
        weights_sha256=files[str(VALIDATION)]["data"]["weights_sha256"],
    )


def check_settings(runs: list[Run]) -> None:
    """Remove what was run with other settings than its own, and stop.

    DVC passes settings through the workspace: of two runs that start at once, it may rarely give
    one the settings of the other.

    Raises:
        MnistCnnError: some were, or DVC failed.
    """
    base, found = read_yaml(PARAMS), settings()
    wrong = [run.name for run in runs if found[run.name] != changed(base, run.changes)]
    if wrong:
        dvc("exp", "remove", *wrong)
        raise MnistCnnError(
            f"DVC ran {', '.join(wrong)} with other settings than asked for; they were removed, so "
            "start again: the others are kept"
        )


def _run_all(runs: list[Run], stage: str, jobs: int) -> list[str]:
    """Run all, `jobs` at once, each in a folder of its own; how those failed that did."""
    failures = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(runs), unit="run", disable=None) as progress,
    ):
        waiting = {
            pool.submit(
                *(dvc, "--wait-for-lock", "exp", "run", "--temp", "--name", run.name),
                *(*arguments(run.changes), stage),
            ): run
            for run in runs
        }
        try:
            for ended in as_completed(waiting):
                error = ended.exception()
                if isinstance(error, MnistCnnError):
                    failures.append(f"{waiting[ended].name}: {error}")
                elif error:
                    raise error
                progress.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(failures)


def summarize(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation, and Student's 95 % interval of the mean, of `values`.

    The standard deviation is that of a sample (divided by n - 1).
    """
    center, spread = mean(values), stdev(values)
    half = float(student_t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
    figures = {"mean": center, "std": spread, "low_95": center - half, "high_95": center + half}
    return {name: round(figure, 6) for name, figure in figures.items()}


def report(
    recipes: Recipes, results: dict[str, dict[int, Result]], pipeline: str, processor: str
) -> dict[str, Any]:
    """What `results` say of each recipe: each metric by seed, and summed up; ready for JSON.

    Args:
        recipes: what `read_recipes` gives.
        results: what `run_seeds` gives.
        pipeline: SHA-256 of the weights that the pipeline itself makes. While it makes the same,
            the results are those of the present code.
        processor: that everything ran on.
    """
    content: dict[str, Any] = {}
    for recipe, by_seed in results.items():
        content[recipe] = {
            "changes": recipes[recipe],
            "processor": processor,
            "pipeline_weights_sha256": pipeline,
            "weights_sha256": {str(seed): run.weights_sha256 for seed, run in by_seed.items()},
        }
        for name in next(iter(by_seed.values())).metrics:
            seeds = {str(seed): run.metrics[name] for seed, run in by_seed.items()}
            content[recipe][name] = {**summarize(list(seeds.values())), "seeds": seeds}
    return content
