"""Options and help that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="An ONNX file of the pipeline's, instead of the one that comes with the package.",
)

# Shells complete file names; folders, patterns and - stay what the user wrote.
PICTURE_PATH = click.Path(readable=False, allow_dash=True)


def examples(*lines: str) -> str:
    """What `--help` ends with; the first character keeps click from filling the lines up."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def output_format(command: Command) -> Command:
    """The options `--json` and `--csv`, which set `form`."""
    for form, words in (("csv", "comma-separated values"), ("json", "one JSON object in a line")):
        option = click.option(f"--{form}", "form", flag_value=form, help=f"Print {words}.")
        command = option(command)
    return command


class Group(click.Group):
    """Ends with 130 on Ctrl-C, as shells expect; click's own ends with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(f"{ctx.info_name}: interrupted", err=True)
            ctx.exit(130)
