"""Run recipes with several seeds as DVC experiments, and summarize the results.

Each run is a `dvc exp run --temp` in its own folder, so several can run in parallel. Earlier runs
with the same code, data and settings come from DVC's cache within seconds, so an interrupted
series resumes where it stopped. DVC's queue would do the same, but a killed worker can leave a task
behind that breaks `dvc exp show`.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.evaluation.reader_suite import METRICS as READER_METRICS
from mnist_cnn_train.experiments.dvc import Setting, arguments, dvc, experiments, settings
from mnist_cnn_train.experiments.paths import ABLATION, READER, SEEDS
from mnist_cnn_train.experiments.recipes import Recipes
from mnist_cnn_train.pipeline.params import changed, read_yaml
from mnist_cnn_train.pipeline.paths import ACCURACY, PARAMS, VALIDATION

Metrics = dict[str, float]


@dataclass(frozen=True)
class Group:
    """How to evaluate the recipes of a group in recipes.yaml."""

    name: str
    stage: str  # the last one to run, after its dependencies
    source: Path  # the metrics file that it writes
    metrics: tuple[str, ...]  # names of the metrics to report
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
            "reader",
            "evaluate",
            ACCURACY,
            (
                *("accuracy", "negative_log_likelihood", "calibration_error"),
                *("corruption_error", "held_out_corruption_error", "held_out_calibration_error"),
                *READER_METRICS,
            ),
            READER,
        ),
        Group(
            "ablation", "train", VALIDATION, ("validation_accuracy", "validation_loss"), ABLATION
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One recipe with one seed; `changes` are its settings by dotted key, including the seed."""

    group: str
    recipe: str
    seed: int
    changes: dict[str, Setting]

    @property
    def name(self) -> str:
        """Name of the DVC experiment."""
        return f"{self.group}-{self.recipe}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """Result of a run: the group's metrics, and the SHA-256 of the weights."""

    metrics: Metrics
    weights_sha256: str


def run_seeds(
    recipes: Recipes, group: Group, seeds: int, jobs: int
) -> dict[str, dict[int, Result]]:
    """Run each recipe with seeds from 0 to `seeds` - 1; return the results by recipe and seed.

    Args:
        recipes: result of `read_recipes`.
        group: what to run, and which metrics to collect.
        seeds: number of values of `train.seed`.
        jobs: number of parallel runs.

    Raises:
        MnistCnnError: if a run or DVC failed, or DVC mixed up the settings.
    """
    # Every seed counts, even if its accuracy is below the minimum.
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
    """Remove experiments that were run with wrong settings.

    DVC passes settings through the workspace. If two runs start at the same time, one may, rarely,
    get the other's settings.

    Raises:
        MnistCnnError: if some experiments were removed, or DVC failed.
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
    """Run all, `jobs` in parallel, each in its own folder; return the messages of failed runs."""
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
    """Return the mean of `values`, its 95 % interval (Student's t), and the standard deviation.

    The standard deviation is that of a sample (divided by n - 1).
    """
    center, spread = mean(values), stdev(values)
    half = float(student_t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
    figures = {"mean": center, "std": spread, "low_95": center - half, "high_95": center + half}
    return {name: round(figure, 6) for name, figure in figures.items()}


def report(
    recipes: Recipes, results: dict[str, dict[int, Result]], pipeline: str, processor: str
) -> dict[str, Any]:
    """Report each metric of each recipe, by seed and summarized; ready for JSON.

    Args:
        recipes: result of `read_recipes`.
        results: result of `run_seeds`.
        pipeline: SHA-256 of the weights that the pipeline itself produces. As long as it produces
            the same, the results are those of the current code.
        processor: the processor that everything ran on.
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
