"""One way to compute on every x86-64 processor with AVX2, so that all give the same bytes.

PyTorch, NumPy and OpenCV choose their kernels by what the processor can do, and kernels round
differently. Capped at AVX2, and MKL at what is alike on every vendor's processors, they all choose
the same ones. docs/reproducibility.md has the libraries, and the processors that were compared.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Read by each library when it is loaded, or when it first computes.
CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's convolutions
    "MKL_CBWR": "COMPATIBLE",  # PyTorch's matrix products; its AVX2 code differs by vendor
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all that NumPy has above AVX2
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's matrix products; else also by the sizes of the cache
    "OPENBLAS_L2_SIZE": "512",  # KiB
    "OPENBLAS_NUM_THREADS": "1",  # and by the number of cores
    "OPENCV_IPP": "avx2",  # OpenCV's resizing and distances
}

# OpenCV complains where it is told to do without what the processor does not have.
AVX512_CAPS = {"OPENCV_CPU_DISABLE": "AVX512-SKX"}
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Processor:
    """What decides how this machine rounds.

    Attributes:
        vendor: as the processor names it, such as ``GenuineIntel``; of other machines than
            x86-64 Linux, their architecture.
        family: as the processor numbers it; 0 where it does not.
        model: also.
        flags: the instruction sets that it has, as Linux names them.
    """

    vendor: str
    family: int
    model: int
    flags: frozenset[str]

    @property
    def is_reproducible(self) -> bool:
        """Whether it can be capped to compute as all others that can."""
        return {"avx2", "fma"} <= self.flags

    @property
    def kind(self) -> str:
        """Its vendor and the best of the instruction sets that libraries choose kernels by."""
        best = next((name for name in ("avx512f", "avx2") if name in self.flags), "neither")
        return f"{self.vendor} {best}"

    @property
    def caps(self) -> dict[str, str]:
        """The environment in which libraries compute as on any processor with AVX2.

        Empty where that cannot be had; there, results differ by rounding.
        """
        if not self.is_reproducible:
            return {}
        return CAPS | (AVX512_CAPS if "avx512bw" in self.flags else {})

    def __str__(self) -> str:
        """For people: vendor, family, model, and the instruction sets that matter."""
        matters = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile")
        flags = " ".join(flag for flag in matters if flag in self.flags)
        return f"{self.vendor} family {self.family} model {self.model} ({flags or 'no AVX2'})"


def this_processor(cpu_info: Path = CPU_INFO) -> Processor:
    """The one that this process runs on."""
    if platform.machine() != "x86_64" or not cpu_info.is_file():
        return Processor(platform.machine(), 0, 0, frozenset())
    first = cpu_info.read_text().split("\n\n")[0]
    fields = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    return Processor(
        vendor=fields.get("vendor_id", "unknown"),
        family=int(fields.get("cpu family", 0)),
        model=int(fields.get("model", 0)),
        flags=frozenset(fields.get("flags", "").split()),
    )


def cap() -> None:
    """Have all libraries that are loaded from now on compute as on any processor with AVX2."""
    os.environ.update(this_processor().caps)
