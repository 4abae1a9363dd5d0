"""The `demo` and `info` commands."""

from pathlib import Path

import click

from mnist_cnn.cli.options import MODEL

PACKAGED_RECIPE = "reader"  # in recipes.yaml; `make release` trains it


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: any free port.")
@click.option("--browser/--no-browser", default=True, help="Open the page.", show_default=True)
@MODEL
def demo(port: int, browser: bool, model: Path | None) -> None:
    """Open a web page to draw digits on or drop pictures onto.

    The page is served to this machine only, until Ctrl-C.
    """
    from mnist_cnn.demo.server import make_server, serve
    from mnist_cnn.reader.recognizer import Recognizer

    with make_server(Recognizer(model), port) as server:
        click.echo(f"Draw a digit at {server.address} (Ctrl-C ends this)")
        serve(server, browser)


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
def info(model: Path | None) -> None:
    """Print the version, and the inputs, outputs and metadata of an ONNX file.

    MODEL defaults to the packaged model.
    """
    from importlib.metadata import version

    from mnist_cnn.core.location import DEFAULT_MODEL
    from mnist_cnn.onnxfile.session import open_model

    path = model or DEFAULT_MODEL
    session = open_model(path)
    described = {"version": f"mnist-cnn {version('mnist-cnn')}"}
    described["file"] = f"{path}, {path.stat().st_size:,} bytes"
    if path == DEFAULT_MODEL:
        described["recipe"] = PACKAGED_RECIPE
    for role, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            described[f"{role} {value.name}"] = f"{value.type} {value.shape}"
    described |= dict(sorted(session.get_modelmeta().custom_metadata_map.items()))
    width = max(map(len, described))
    for name, value in described.items():
        click.echo(f"{name:{width}}  {value}")
