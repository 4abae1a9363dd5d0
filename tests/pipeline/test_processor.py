import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_cnn_train.pipeline.processor import CAPS, Processor, this_processor

CPU_INFO = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: 6
model\t\t: 207
model name\t: Some Processor
flags\t\t: fpu sse2 {flags}

processor\t: 1
vendor_id\t: Other
"""


on_x86_64 = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="reads what x86-64 Linux says"
)


def described(folder: Path, flags: str, vendor: str = "GenuineIntel") -> Processor:
    path = folder / "cpuinfo"
    path.write_text(CPU_INFO.format(vendor=vendor, flags=flags))
    return this_processor(path)


@on_x86_64
def test_a_processor_is_known_by_vendor_and_best_instruction_set(tmp_path: Path) -> None:
    plain = described(tmp_path, "avx2 fma", "AuthenticAMD")
    wide = described(tmp_path, "avx2 fma avx512f avx512bw avx512_vnni")
    assert (plain.kind, wide.kind) == ("AuthenticAMD avx2", "GenuineIntel avx512f")
    assert str(wide) == "GenuineIntel family 6 model 207 (avx2 fma avx512f avx512_vnni)"
    assert plain.caps == CAPS
    assert wide.caps.keys() == {*CAPS, "OPENCV_CPU_DISABLE"}


@on_x86_64
def test_without_avx2_nothing_is_capped(tmp_path: Path) -> None:
    """Told to use what it does not have, PyTorch would crash."""
    old = described(tmp_path, "avx")
    assert not old.is_reproducible
    assert old.caps == {}


def test_another_architecture_is_named_and_not_capped(tmp_path: Path) -> None:
    unknown = this_processor(tmp_path / "none")
    assert unknown.caps == {}
    assert unknown.vendor == os.uname().machine


@pytest.mark.skipif(not this_processor().is_reproducible, reason="this processor is not capped")
def test_each_library_obeys() -> None:
    """The environment is named as each reads it; a new version may read another."""
    code = """
import warnings
warnings.simplefilter("error")
from mnist_cnn_train.pipeline.processor import cap
cap()
import cv2, numpy, torch
from numpy._core._multiarray_umath import __cpu_features__
print(torch.backends.cpu.get_cpu_capability())
print([name for name in ("X86_V4", "AVX512_ICL", "AVX512_SPR") if __cpu_features__[name]])
print("AVX2 (l9)" in cv2.ipp.getIppVersion())
print("*AVX512-SKX " in cv2.getCPUFeaturesLine() + " ")
"""
    command = [sys.executable, "-W", "ignore::ImportWarning", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n") == ["AVX2", "[]", "True", "False", ""]
    assert "OPENCV" not in result.stderr
