"""Options and help shared by several commands."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mnist_cnn.core.errors import MnistCnnError

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="ONNX file made by the pipeline, instead of the packaged one.",
)

# Lets shells complete file names, but leaves folders, patterns and - as given.
PICTURE_PATH = click.Path(readable=False, allow_dash=True)


def examples(*lines: str) -> str:
    """Format the end of `--help`; the first character keeps click from rewrapping the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def output_format(command: Command) -> Command:
    """Add the options `--json` and `--csv`, which set `form`."""

    def choose(context: click.Context, option: click.Parameter, chosen: bool) -> None:
        if chosen and context.params.setdefault("form", option.name) != option.name:
            raise click.UsageError("--csv and --json exclude each other")

    for form, words in (("csv", "comma-separated values"), ("json", "one JSON object per line")):
        flag = click.option(
            f"--{form}", is_flag=True, expose_value=False, callback=choose, help=f"Print {words}."
        )
        command = flag(command)
    return command


def escaped(name: str) -> str:
    """Escape line breaks and other control characters, which a terminal would obey."""
    return "".join(one if one >= " " and one != "\x7f" else repr(one)[1:-1] for one in name)


class Group(click.Group):
    """Command group that exits with 130 on Ctrl-C, as shells expect; click's own exits with 1.

    Errors are escaped, since file names in them may contain control characters.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MnistCnnError as error:
            # Only a message's own further lines are indented.
            lines = re.split(r"\n(?=  \S)", str(error))
            raise MnistCnnError("\n".join(map(escaped, lines))) from None
        except KeyboardInterrupt:
            click.echo(f"{ctx.info_name}: interrupted", err=True)
            ctx.exit(130)
