"""The documentation agrees with the repository: its links, its tables, and the README's code."""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Project, shell, tracked
from PIL import Image

from mnist_cnn.cli.main import commands as reader
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import read_json, write_json
from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn_train.cli import commands as trainer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.experiments.paths import READER
from mnist_cnn_train.experiments.tables import TABLES, with_tables

DOCUMENTS = {name: (REPOSITORY / name).read_text() for name in tracked("*.md")}


def blocks(language: str, text: str = DOCUMENTS["README.md"]) -> list[str]:
    """The code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def links(document: str) -> Iterator[tuple[Path, str]]:
    """The file and the anchor, or "", of each link in `document` that leads into the repository."""
    text = re.sub(r"```.*?```", "", DOCUMENTS[document], flags=re.DOTALL)
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            path = REPOSITORY / document
            yield (path.parent / file if file else path), anchor


def anchors(document: Path) -> set[str]:
    """The anchors of the headings of `document`, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: str) -> None:
    for file, anchor in links(document):
        assert file.exists()
        assert not anchor or anchor in anchors(file), f"no #{anchor} in {file}"


def test_every_command_in_a_code_block_exists() -> None:
    code = "\n".join(block for text in DOCUMENTS.values() for block in blocks("sh", text))
    makefile = (REPOSITORY / "Makefile").read_text()
    known = {
        "make": set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)),
        "mnist-cnn": set(reader.commands),
        "python -m mnist_cnn_train": set(trainer.commands),
    }
    for program, names in known.items():
        used = set(re.findall(rf"^{program} ([a-z-]+)", code, re.MULTILINE))
        assert used
        assert used <= names


@pytest.fixture
def committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results as they are in git: another device may have made others in the work tree."""
    results = shell("git", "ls-files", "metrics/*.json", "params.yaml").stdout.split()
    shell("git", "checkout-index", f"--prefix={tmp_path}/", "--", *results)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("committed_results")
def test_every_table_is_current() -> None:
    for text in DOCUMENTS.values():
        assert with_tables(text) == text, "run `python -m mnist_cnn_train.experiments.tables`"
    shown = re.findall(r"^<!-- table: (\w+) -->$", "".join(DOCUMENTS.values()), re.MULTILINE)
    assert set(shown) == TABLES.keys()


@pytest.mark.usefixtures("committed_results")
def test_a_table_is_rewritten_and_what_stands_around_it_is_kept() -> None:
    before = "Before.\n<!-- table: accuracy -->\nold\n<!-- /table -->\nAfter.\n"
    after = with_tables(before)
    assert after.startswith("Before.\n<!-- table: accuracy -->\n\n| weights | ")
    assert after.endswith(" |\n\n<!-- /table -->\nAfter.\n")
    assert "old" not in after
    assert with_tables(after) == after


@pytest.mark.usefixtures("committed_results")
def test_the_model_card_gives_no_result_of_other_weights_as_the_files_own() -> None:
    table = "<!-- table: model_accuracy -->\n<!-- /table -->"
    report = read_json(READER)
    own = report["reader"]["weights_sha256"]
    own |= dict.fromkeys(own, DigitModel(DEFAULT_MODEL).properties["weights_sha256"])
    write_json(READER, report)
    assert "| — |" not in with_tables(table)
    write_json(READER, {"reader": {**report["reader"], "weights_sha256": dict.fromkeys(own, "0")}})
    assert with_tables(table).count("test images | — | 99.") == 1


def test_an_unknown_table_and_one_without_its_results_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MnistCnnError, match="no table 'sedes'; known: accuracy, seeds"):
        with_tables("<!-- table: sedes -->\n<!-- /table -->")
    with pytest.raises(MnistCnnError, match=r"there is no metrics/pictures\.json"):
        with_tables("<!-- table: pictures -->\n<!-- /table -->")


@pytest.fixture
def checkout(trained_model: Path, tmp_path: Path) -> Project:
    """A folder with the sample pictures and a model, as in a checkout where the pipeline ran."""
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    (tmp_path / "models").symlink_to(trained_model.parent)
    return Project(tmp_path)


COMMANDS = re.findall(r"^mnist-cnn .*", "".join(blocks("sh")), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_readmes_commands_run_on_the_sample_pictures(command: str, checkout: Project) -> None:
    _, name, *_ = words = shlex.split(command, comments=True)
    checkout.run(*words, *(["--help"] if name == "demo" else []))  # which serves until Ctrl-C


@pytest.mark.slow
def test_the_readmes_python_reads_the_sample_pictures(checkout: Project) -> None:
    with_package, with_onnxruntime = blocks("python")
    seven, *page = checkout.run(sys.executable, "-c", with_package).stdout.splitlines()
    assert seven.split()[0] == "7"
    written = "7210414" + "9590690" + "1597349" + "6654074"
    found = [line.split()[-1] for line in page]
    assert sum(map(str.__eq__, found, written)) >= len(written) - 1  # a model may err once
    assert [line.split()[0] for line in page] == [str(1 + place // 7) for place in range(28)]
    assert checkout.run(sys.executable, "-c", with_onnxruntime).stdout.strip() == "7"


@pytest.mark.parametrize("ink", ["dark", "light"])
def test_the_readmes_onnxruntime_code_reads_either_polarity(
    ink: str, checkout: Project, test_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.folder)
    code = blocks("python")[1].replace("docs/samples/seven.png", "digit.png")
    paper, contrast = (235, -0.8) if ink == "dark" else (40, 0.8)
    shadow = 0.1 * np.add.outer(np.arange(200), np.arange(200))
    printed = io.StringIO()
    with redirect_stdout(printed):
        for image in test_digits.images[:100]:
            enlarged = Image.fromarray(image).resize((200, 200), Image.Resampling.BICUBIC)
            picture = paper - shadow + contrast * np.asarray(enlarged)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save("digit.png")
            exec(code, {})
    found = np.array(printed.getvalue().split(), int)
    assert (found == test_digits.labels[:100]).mean() >= 0.9  # of any model that is used here
