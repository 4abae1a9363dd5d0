"""Starting the processes of a training by torchrun."""

import logging
import os
import signal
from collections.abc import Sequence

import torch.distributed as dist

from mnist_cnn.core.errors import MnistCnnError


def in_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or as the only one."""
    return dist.is_torchelastic_launched()


def launch(command: Sequence[str], processes: int) -> None:
    """Run Python's `command` in `processes` processes of this host by torchrun, until all ended.

    As to any torchrun, the environment may name further hosts: PET_NNODES, PET_NODE_RANK,
    PET_MASTER_ADDR and PET_MASTER_PORT.

    Raises:
        MnistCnnError: one of them failed or was killed; then the others are ended too.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # It tells of a failed process in a page, and we in a line.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process takes one core
    # On one host, any free port; else the leader's has to be known to the others.
    one_host = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    hosts = [] if "PET_NNODES" in os.environ else one_host
    try:
        run(parse_args([*hosts, "--nproc-per-node", str(processes), *command]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        raise MnistCnnError(
            f"process {rank} of the training {end}, so the others were ended too; repair what it "
            "reported and start again: training resumes after the last whole epoch"
        ) from None
