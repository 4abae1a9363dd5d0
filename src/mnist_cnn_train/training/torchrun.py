"""Start training processes with torchrun."""

import logging
import os
import signal
from collections.abc import Sequence

import torch.distributed as dist

from mnist_cnn.core.errors import MnistCnnError


def in_torchrun() -> bool:
    """Whether torchrun started this process, even as the only one."""
    return dist.is_torchelastic_launched()


def launch(command: Sequence[str], processes: int) -> None:
    """Run Python with `command` in `processes` processes on this host, and wait for all.

    As for any torchrun, environment variables may specify more hosts: PET_NNODES, PET_NODE_RANK,
    PET_MASTER_ADDR and PET_MASTER_PORT.

    Raises:
        MnistCnnError: if a process failed or was killed; the others are then stopped too.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # torchrun reports a failed process in a page; we report it in a line.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process takes one core
    # One host can use any free port; several must know the leader's.
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
