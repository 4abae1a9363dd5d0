"""Make libraries compute identically on all x86-64 processors with AVX2.

PyTorch, NumPy and OpenCV choose kernels by the processor's features, and kernels round differently.
Capped at AVX2 (and MKL at code that is the same for all vendors), they choose the same kernels
everywhere. docs/reproducibility.md lists the libraries and the processors that were compared.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Libraries read these variables when they are loaded or first compute.
CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's convolutions
    "MKL_CBWR": "COMPATIBLE",  # PyTorch's matrix products; its AVX2 code differs by vendor
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all NumPy features above AVX2
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's matrix products
    "OPENBLAS_L2_SIZE": "512",  # KiB; otherwise results depend on the size of the cache
    "OPENBLAS_NUM_THREADS": "1",  # otherwise results depend on the number of cores
    "OPENCV_IPP": "avx2",  # OpenCV's resizing and distances
}

# Separate, since OpenCV complains about features that the processor does not have.
AVX512_CAPS = {"OPENCV_CPU_DISABLE": "AVX512-SKX"}
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Processor:
    """A processor, as far as it affects rounding.

    Attributes:
        vendor: vendor ID, such as ``GenuineIntel``; on machines other than x86-64 Linux, their
            architecture.
        family: family number; 0 if unknown.
        model: model number; 0 if unknown.
        flags: supported instruction sets, as named by Linux.
    """

    vendor: str
    family: int
    model: int
    flags: frozenset[str]

    @property
    def is_reproducible(self) -> bool:
        """Whether it can be capped to give the same results as all others that can."""
        return {"avx2", "fma"} <= self.flags

    @property
    def kind(self) -> str:
        """Vendor and best instruction set, by which libraries choose kernels."""
        best = next((name for name in ("avx512f", "avx2") if name in self.flags), "neither")
        return f"{self.vendor} {best}"

    @property
    def caps(self) -> dict[str, str]:
        """Environment variables that make libraries compute as on any processor with AVX2.

        Empty if that is impossible; results then differ by rounding.
        """
        if not self.is_reproducible:
            return {}
        return CAPS | (AVX512_CAPS if "avx512bw" in self.flags else {})

    def __str__(self) -> str:
        """Format vendor, family, model, and the relevant instruction sets."""
        matters = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile")
        flags = " ".join(flag for flag in matters if flag in self.flags)
        return f"{self.vendor} family {self.family} model {self.model} ({flags or 'no AVX2'})"


def this_processor(cpu_info: Path = CPU_INFO) -> Processor:
    """Return the processor of this machine."""
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
    """Make libraries that are loaded after this call compute as on any processor with AVX2."""
    os.environ.update(this_processor().caps)
