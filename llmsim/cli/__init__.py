"""The command line: the verbs of the package, with the same names and the same numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from . import explain, plan, simulate
from .calibrate import calibrate, doctor
from .catalogue import hardware, models
from .cluster import cluster
from .compare import compare
from .compress import compress
from .settings import settings
from .shell import Commands
from .validate import validate

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Plan, simulate, explain and validate training, serving and compressing Transformers on a cluster.",
    epilog="Exit status: 0 an answer; 2 bad input; 3 nothing fits or meets the question; 1 no place to print.",
)
plan.app.command()(cluster)
app.add_typer(plan.app, name="plan")
app.add_typer(simulate.app, name="simulate")
app.add_typer(explain.app, name="explain")
for command in (models, hardware, settings, compare, compress, validate, calibrate, doctor):
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        print(f"llmsim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``llmsim`` command."""
    app()
