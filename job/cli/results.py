"""Commands that read results: gather, predict."""

from typing import Annotated

import typer

from job.cli.options import Sweep

app = typer.Typer()


@app.command()
def gather(sweep: Sweep, watch: Annotated[bool, typer.Option("--watch", help="Gather again whenever a trial ends, until all "
                                                             "have.")] = False) -> None:
    """Merge the rows into the summary workbook."""
    from job.folder.storage import open_folder
    from job.results.gather import wait_for_rows

    if watch:
        for _ in wait_for_rows(open_folder(sweep), lambda text: print(text, flush=True)):
            print_summary(sweep)
    else:
        print_summary(sweep)


@app.command()
def predict(sweep: Sweep, images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Paths or URIs.",
                                                                       show_default=False)],
            trial: Annotated[str, typer.Option(help="Use this trial's best weights, not the best trial's.",
                                               show_default=False)] = "") -> None:
    """Say what is on images, and how sure.

    Class and confidence by the best trial's best weights.
    """
    from job.folder.storage import open_folder
    from job.results.predict import load_predictor
    from job.results.terminal import print_predictions

    predictor = load_predictor(open_folder(sweep), trial)
    print_predictions(predictor, predictor.predict(images))


def print_summary(sweep: str) -> None:
    """Gather, and print the table, the best trial and the workbook's place."""
    from job.folder.storage import open_folder
    from job.results.gather import gather
    from job.results.terminal import print_gathered

    folder = open_folder(sweep)
    print_gathered(folder, *gather(folder))
