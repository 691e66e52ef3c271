"""Commands that read results: gather, predict."""

from typing import Annotated

import typer

from job.cli.options import AsJson, Sweep, command, note, number, say
from job.errors import BadConfig, BadData

app = typer.Typer()


@command(app)
def gather(sweep: Sweep, watch: Annotated[bool, typer.Option(
               "--watch", help="Gather again each time a trial ends, until all have ended.")] = False,
           json: AsJson = False) -> None:
    """Merge the rows into the summary workbook.

    Works on a sweep that is not finished, too.
    """
    from job.folder.storage import open_folder
    from job.results.gather import wait_for_rows

    if watch:
        damage: BadData | None = None
        for _ in wait_for_rows(open_folder(sweep), lambda text: say(text, json)):
            # A damaged file of one trial does not end the wait for the others.
            try:
                damage = None
                print_summary(sweep, json, indent=None)
            except BadData as error:
                damage = error
        if damage:
            raise damage
    else:
        print_summary(sweep, json)


@command(app)
def predict(sweep: Sweep,
            images: Annotated[list[str], typer.Argument(
                metavar="IMAGES", show_default=False,
                help="Files, folders (with the folders in them), patterns such as 'new/*.jpg', s3:// prefixes.")],
            trial: Annotated[str, typer.Option(help="Use the best weights of this trial, not of the recommended one.",
                                               show_default=False)] = "",
            coverage: Annotated[float, typer.Option(
                **number(float), help="Share of images whose class is to be in their prediction set.  [default: 0.9]",
                show_default=False)] = 0.9,
            output: Annotated[str, typer.Option(
                "--output", metavar="FILE.csv|FILE.jsonl", show_default=False,
                help="Write the answers to this file, path or URI, instead of printing them.")] = "",
            json: AsJson = False) -> None:
    """Classify images with the best weights of the recommended trial.

    Prints class and calibrated confidence, one line per image, and `unsure` where its prediction set holds none or
    several classes. Where no trial is recommended, it says why, and needs --trial.
    """
    from job.data.named import images_named
    from job.folder.storage import open_folder

    if output and json:
        raise BadConfig("--output and --json: give one of them")
    named = images_named(images)
    # Not before the names are known: torch takes seconds to import.
    from job.results.answers import check_output, show_predictions
    from job.results.predict import load_predictor
    from job.training.faults import named_faults

    if output:
        check_output(output)
    folder = open_folder(sweep)
    with named_faults():
        predictor = load_predictor(folder, trial, coverage)
        for sentence in predictor.why:
            note(sentence)
        show_predictions(folder, predictor, named, output, json)


def print_summary(sweep: str, json: bool = False, indent: int | None = 1) -> None:
    """Gather, and print the summary: the table, the best trial and the workbook's path, or all of it as JSON."""
    from job.folder.storage import open_folder
    from job.results.gather import gather
    from job.results.json_output import print_json, summary_json
    from job.results.terminal import print_gathered

    folder = open_folder(sweep)
    summary, workbook, kept = gather(folder)
    if json:
        print_json("gather", folder, summary_json(folder, summary, workbook, kept), indent)
    else:
        print_gathered(folder, summary, workbook, kept)
