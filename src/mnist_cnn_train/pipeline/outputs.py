"""Outputs recorded in `dvc.lock`, and their restoration from DVC's cache.

Uses neither DVC nor a YAML package: outputs may have to be restored because the wrong Python was
started, which lacks both.
"""

import re
import shutil
import subprocess
from pathlib import Path

from mnist_cnn_train.pipeline.paths import LOCK

_STAGE = re.compile(r"^  (\w+):\n((?:    .*\n)+)", re.MULTILINE)
_OUTPUT = re.compile(r"^    - path: (.+)\n      hash: md5\n      md5: (\w{32})$", re.MULTILINE)


def recorded_outputs(lock: str) -> dict[str, dict[Path, str]]:
    """Return the MD5 of each output by stage and path, in the pipeline's order.

    Args:
        lock: content of a `dvc.lock` as written by DVC.
    """
    return {
        stage: {Path(path): md5 for path, md5 in _OUTPUT.findall(entry.partition("    outs:\n")[2])}
        for stage, entry in _STAGE.findall(lock)
    }


def restore_outputs(stage: str) -> None:
    """Restore all outputs of the last run of `stage` from DVC's cache, or none if one is missing.

    DVC deletes them before it starts a stage.
    """
    outputs = recorded_outputs(LOCK.read_text()).get(stage, {}) if LOCK.is_file() else {}
    cached = {path: _cache() / md5[:2] / md5[2:] for path, md5 in outputs.items()}
    if all(file.is_file() for file in cached.values()):
        for path, file in cached.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            shutil.copyfile(file, partial)
            partial.replace(path)


def _cache() -> Path:
    try:
        told = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return Path(".dvc/cache/files/md5")
    return Path(told.stdout.strip(), "files/md5")
