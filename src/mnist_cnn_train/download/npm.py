"""Packages of the npm registry, by npm itself."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mnist_cnn.core.errors import one_line
from mnist_cnn_train.download.attempts import SourceError

TIMEOUT = 600  # seconds, for some 30 MB


def pack(packages: Sequence[str], folder: Path) -> list[Path]:
    """Download `packages`, each given as ``name@version``, to tarballs in `folder`.

    Raises:
        SourceError: if npm is not installed, fails, or takes too long.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    # Packing does not need the package's scripts, so do not run them.
    command = [npm, "pack", *packages, "--ignore-scripts"]
    clock = tqdm(desc=f"npm pack {packages[0]}", bar_format="{desc}: {elapsed}", disable=None)
    with (
        clock,
        subprocess.Popen(  # noqa: S603 (a fixed command, without a shell)
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        for _ in range(TIMEOUT):
            try:
                _, problems = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                clock.refresh()
        else:
            process.kill()
            raise SourceError(f"npm did not finish within {TIMEOUT} s")
    if process.returncode != 0:
        raise SourceError(f"npm exited with {process.returncode}: {one_line(problems)}")
    tarballs = sorted(folder.glob("*.tgz"))
    if len(tarballs) != len(packages):
        raise SourceError(f"npm pack left {len(tarballs)} of {len(packages)} tarballs")
    return tarballs
