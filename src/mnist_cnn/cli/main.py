"""Entry point of the `mnist-cnn` command.

Commands import their dependencies when they run, so that `--help` does not wait for onnxruntime.
"""

import codecs
import sys
import warnings
from io import TextIOWrapper

import click

from mnist_cnn.cli.batch import score
from mnist_cnn.cli.model import demo, info
from mnist_cnn.cli.options import Group
from mnist_cnn.cli.reading import predict, read
from mnist_cnn.core.errors import exit_on_error


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mnist-cnn")
def commands() -> None:
    """Read handwritten digits in pictures."""


for command in (predict, read, score, demo, info):
    commands.add_command(command)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print file names that are not UTF-8 as they are; escape what the encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def main() -> None:
    """Run the command line; report errors that a user can fix in one line."""
    if isinstance(sys.stdout, TextIOWrapper):
        codecs.register_error("escape", _escape)
        sys.stdout.reconfigure(errors="escape")
    warnings.filterwarnings("ignore", module="PIL")  # damaged files: reported in our own words
    with exit_on_error("mnist-cnn"):
        commands(prog_name="mnist-cnn")
