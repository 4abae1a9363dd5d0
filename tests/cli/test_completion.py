import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from mnist_cnn.cli.main import commands

VARIABLE = "_MNIST_CNN_COMPLETE"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "TERM": "dumb",
}


def completions(shell: type[ShellComplete], words: list[str], incomplete: str) -> list[str]:
    """What click sends to the shell."""
    complete = shell(commands, {}, "mnist-cnn", VARIABLE)
    return [complete.format_completion(i) for i in complete.get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("shell", "files"),
    [(BashComplete, "file,sev"), (FishComplete, "file,sev"), (ZshComplete, "file\nsev\n_")],
)
@pytest.mark.parametrize(
    "words",
    [["predict"], ["predict", "-"], ["predict", "*.jpg", "--csv"], ["read"], ["read", "--boxes"]],
    ids=" ".join,
)
def test_every_shell_is_asked_to_complete_file_names(
    words: list[str], shell: type[ShellComplete], files: str
) -> None:
    assert [line.rstrip() for line in completions(shell, words, "sev")] == [files]


def test_commands_are_completed() -> None:
    assert completions(BashComplete, [], "re") == ["plain,read"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "seven.png").touch()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/one.jpg").touch()
    return tmp_path


def script(shell: str) -> str:
    environment = {**ENVIRONMENT, VARIABLE: f"{shell}_source"}
    return subprocess.run("mnist-cnn", env=environment, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_every_shell_is_printed(shell: str) -> None:
    assert "_mnist_cnn_completion" in script(shell)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("predict sev", ["seven.png"]), ("predict pages/", ["pages/one.jpg"]), ("read p", ["pages/"])],
)
def test_fish_completes_files_and_folders(typed: str, expected: list[str], folder: Path) -> None:
    code = f"{script('fish')}\ncomplete --do-complete 'mnist-cnn {typed}'"
    command = ["fish", "--no-config", "-c", code]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == expected


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("predict sev", "predict seven.png"), ("read pages/o", "read pages/one.jpg")],
)
def test_bash_completes_files_and_folders(typed: str, expected: str, folder: Path) -> None:
    """At the prompt: Tab, then Ctrl-A and `echo` before the line, and a redirection after it."""
    (folder / ".rc").write_text(script("bash"))
    command = ["bash", "--noprofile", "--rcfile", ".rc", "-i"]
    terminal, end = pty.openpty()
    os.write(terminal, f"mnist-cnn {typed}\t> line\x01echo \x05; exit\n".encode())
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, start_new_session=True, timeout=20, **streams
    )
    os.close(end)
    os.close(terminal)
    assert (folder / "line").read_text() == f"mnist-cnn {expected}\n"
