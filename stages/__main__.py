"""Run a pipeline stage: `python stages train`, as dvc.yaml does.

Before importing the stage, this selects the source code next to this folder, also in the copies
that `dvc exp run --temp` makes, and caps the processor's features, so that results are the same
everywhere.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

SOURCE = str(Path(__file__).resolve().parents[1] / "src")
sys.path.insert(0, SOURCE)
os.environ["PYTHONPATH"] = SOURCE  # for subprocesses

from mnist_cnn_train.pipeline.processor import cap  # noqa: E402
from mnist_cnn_train.pipeline.stage import running  # noqa: E402


def main() -> None:
    """Run the stage named on the command line."""
    stages = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if sys.argv[1:] not in [[stage] for stage in stages]:
        sys.exit(f"usage: python stages {{{','.join(stages)}}}")
    (stage,) = sys.argv[1:]
    cap()
    with running(stage):
        import_module(stage).main()


if __name__ == "__main__":
    main()
