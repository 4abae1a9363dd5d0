import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import ImageFont

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.catalog import HELD_OUT_FONTS
from mnist_cnn_train.download import fonts
from mnist_cnn_train.download.fonts import download_fonts, known_fonts, write_fonts

SOME = ("caveat", "lora")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "made/fonts.zip"


def test_the_held_out_fonts_are_among_those_known() -> None:
    assert known_fonts().keys() > HELD_OUT_FONTS


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_serves_the_fonts_with_their_checksums(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: known_fonts()[name] for name in SOME}
    monkeypatch.setattr(fonts, "known_fonts", lambda: few)
    assert download_fonts(["torchvision", "npm"], archive) == "npm"
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == sorted(SOME)
        for name in SOME:
            font = content.read(name)
            assert ImageFont.truetype(BytesIO(font), 20).getlength("7") > 5
            (tmp_path / f"{name}-latin-400-normal.woff").write_bytes(font)
    first = archive.read_bytes()
    assert download_fonts([f"folder:{tmp_path}"], archive) == f"folder:{tmp_path}"
    assert archive.read_bytes() == first

    (tmp_path / "lora-latin-400-normal.woff").write_bytes(font[:-1])
    with pytest.raises(MnistCnnError, match=r"lora has the SHA-256 .*, not"):
        download_fonts([f"folder:{tmp_path}"], archive)
    assert archive.read_bytes() == first


def test_without_a_source_each_reason_is_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError) as caught:
        download_fonts(["torchvision", f"folder:{tmp_path}"], archive)
    assert str(caught.value).splitlines() == [
        "no source served the fonts:",
        "  torchvision: it has no fonts",
        f"  folder:{tmp_path}: there is no "
        f"{tmp_path}/annie-use-your-telescope-latin-400-normal.woff",
    ]
    assert not archive.exists()


def test_an_archive_may_be_empty(archive: Path) -> None:
    write_fonts({}, archive)
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == []
