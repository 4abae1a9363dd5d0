"""Run a stage: `python stages train`, as dvc.yaml does, in any shell and environment.

Before the stage's own imports, the code is chosen, which is that of this very folder, also in the
copies that `dvc exp run --temp` works in, and the processor is capped, so that results are the
same everywhere.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

SOURCE = str(Path(__file__).resolve().parents[1] / "src")
sys.path.insert(0, SOURCE)
os.environ["PYTHONPATH"] = SOURCE  # for the processes that a stage starts

from mnist_cnn_train.pipeline.processor import cap  # noqa: E402
from mnist_cnn_train.pipeline.stage import running  # noqa: E402


def main() -> None:
    """Run the stage that is named."""
    stages = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if sys.argv[1:] not in [[stage] for stage in stages]:
        sys.exit(f"usage: python stages {{{','.join(stages)}}}")
    (stage,) = sys.argv[1:]
    cap()
    with running(stage):
        import_module(stage).main()


if __name__ == "__main__":
    main()
