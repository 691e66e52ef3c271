"""The command that makes a model ready to travel: export."""

from typing import Annotated

import typer

from job.cli.options import Sweep, command, not_empty, note

app = typer.Typer()


@command(app)
def export(sweep: Sweep, out: Annotated[str, typer.Argument(
               metavar="OUT", show_default=False, callback=not_empty,
               help="A new folder for the bundle: a path or s3://bucket/folder.")],
           trial: Annotated[str, typer.Option(help="Export the best weights of this trial, not of the "
                                              "recommended one.", show_default=False)] = "",
           samples: Annotated[bool, typer.Option("--samples/--no-samples", help="Put up to 32 validation images into "
                                                 "the bundle, with which it can be checked again.")] = True) -> None:
    """Export the recommended trial's model as a bundle: ONNX, weights, model card.

    It classifies images without this program, and is proven to answer as `job predict` does.
    """
    from job.folder.storage import open_folder
    from job.results.bundle.export import export_bundle
    from job.training.faults import named_faults

    target = open_folder(out)
    with named_faults():
        done = export_bundle(open_folder(sweep), target, trial, samples, note)
    note(f"{target.uri}: {done}", to_stderr=False)
