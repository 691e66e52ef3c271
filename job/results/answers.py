"""What `job predict` prints and writes: lines, columns on a terminal, one JSON object, a CSV or JSON Lines file."""

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console

from job.data.image_file.decode import Rejected
from job.data.named import Named
from job.errors import BadConfig, BadData, JobError, redacted
from job.folder.escape import for_csv, for_terminal, lines_for_terminal
from job.folder.storage import Folder, open_folder, split_uri
from job.record import PROBABILITY, finite
from job.results.predict import Prediction, Predictor
from job.training.display import Display, plural

ENDINGS = (".csv", ".jsonl")
HEADINGS = ("image", "class", "confidence", "")
# Of a screen's columns, how many the names of images take at most; a longer name pushes its own line.
NAME_SHARE = 0.6


def show_predictions(sweep: Folder, predictor: Predictor, images: Sequence[Named], output: str = "",
                     as_json: bool = False) -> None:
    """Print or write the answers for these images as they come; raises an error at the end if some have none.

    output: a file, path or URI, instead of lines. BadData if a file is no image, else what was wrong with the first.
    """
    for damage in predictor.damaged:
        print(f"job: left out, because a file is damaged: {lines_for_terminal(str(damage))}", file=sys.stderr)
    stdout, on_terminal = sys.stdout, sys.stdout.isatty()
    screen = Console(stderr=not on_terminal or as_json)
    has_bar = screen.is_terminal and not os.environ.get("TRIALGRID_QUIET") and not (as_json and on_terminal)

    def write(text: str) -> None:
        # While the bar is on the screen, a line has to go above it.
        if has_bar and on_terminal:
            screen.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            stdout.write(text)

    errors = Errors()
    found = errors.noted(followed(predictor.predict(images), len(images), screen if has_bar else None))
    if as_json:
        write_json(sweep, predictor, found, write)
        stdout.flush()
    else:
        for line in about(predictor):
            print(for_terminal(line))
    if output:
        write_file(output, predictor.classes, found)
        if not as_json:
            print(for_terminal(f"predictions of {plural(len(images), 'image')}: {redacted(output)}"))
    elif not as_json:
        columns = widths(images, predictor.classes, screen.width) if on_terminal else None
        if columns:
            write(aligned(HEADINGS, columns))
        for item in found:
            write(aligned(cells_of(item), columns) if columns else f"{'  '.join(filter(None, cells_of(item)))}\n")
    errors.refuse()


class Errors:
    """How many images have no answer, and the first of them."""

    def __init__(self) -> None:
        self.num, self.first, self.kind = 0, "", JobError

    def noted(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """Yield the predictions, and note those without an answer."""
        for item in predictions:
            if item.error:
                self.num += 1
                self.first = self.first or f"{item.image}: {reason_of(item)}"
                kind = BadData if isinstance(item.error, Rejected) else type(item.error)
                self.kind = kind if self.num == 1 or kind is BadData else self.kind
            yield item

    def refuse(self) -> None:
        """Raise an error if an image has no answer."""
        if self.num:
            raise self.kind(f"{self.num} of the images could not be read; the first: {self.first}")


def followed(predictions: Iterator[Prediction], total: int, screen: Console | None) -> Iterator[Prediction]:
    """Yield the predictions, with a bar on the screen if there is one."""
    if screen is None:
        yield from predictions
        return
    with Display(screen) as display:
        display.begin(f"predicting {plural(total, 'image')}", total)
        for number, item in enumerate(predictions, 1):
            yield item
            display.advance_to(number)
        display.end()


def about(predictor: Predictor) -> list[str]:
    """Return by what is classified, in lines: the trial and its rule, and its sets."""
    rule = "" if predictor.threshold is None else (
        f"; {predictor.classes[1]!r} if its probability is at least {predictor.threshold:.6g} "
        f"(validation recall {predictor.val_recall or 0:.0%})")
    raw = "" if predictor.temperature else "; its confidence is not calibrated"
    return [f"best weights of trial {predictor.trial}{rule}{raw}", *([str(predictor.sets)] if predictor.sets else [])]


def reason_of(item: Prediction) -> str:
    """Return why an image has no answer."""
    return item.error.reason if isinstance(item.error, Rejected) else str(item.error)


def cells_of(item: Prediction) -> tuple[str, str, str, str]:
    """Return an answer as the cells of a line, escaped."""
    name = for_terminal(redacted(item.image))
    if item.error:
        return name, f"not read: {for_terminal(redacted(reason_of(item)))}", "", ""
    unsure = f"unsure: {' or '.join(item.members or ()) or 'no class'}" if item.is_unsure else ""
    return name, for_terminal(item.label), f"{item.confidence:.3f}", for_terminal(unsure)


def widths(images: Sequence[Named], classes: Sequence[str], width: int) -> tuple[int, int, int, int]:
    """Return the widths of the columns on a screen."""
    name = max([len(HEADINGS[0]), *(cell_len(for_terminal(image.shown)) for image in images)])
    label = max([len(HEADINGS[1]), *(cell_len(for_terminal(item)) for item in classes)])
    return min(name, int(NAME_SHARE * width)), label, len(HEADINGS[2]), 0


def aligned(cells: Sequence[str], columns: Sequence[int]) -> str:
    """Return a line of cells, each as wide as its column or wider."""
    texts = [text + " " * (width - cell_len(text)) for text, width in zip(cells, columns, strict=True)]
    return f"{'  '.join(texts).rstrip()}\n"


def record_of(item: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    """Return an answer as one flat object: image, label, confidence, set, p_CLASS of each class, error."""
    shares = [finite(value) for value in item.probabilities] or [None] * len(classes)
    named = {f"{PROBABILITY}{name}": value for name, value in zip(classes, shares, strict=True)}
    found = {"image": redacted(item.image), "label": None if item.error else item.label,
             "confidence": None if item.error else finite(item.confidence), "set": item.members}
    return {**found, **named, "error": redacted(reason_of(item)) if item.error else None}


def write_json(sweep: Folder, predictor: Predictor, predictions: Iterator[Prediction],
               write: Callable[[str], Any]) -> None:
    """Write one JSON object, an image a line, as the answers come."""
    head = {"command": "predict", "sweep": sweep.uri, "trial": predictor.trial, "classes": predictor.classes,
            "temperature": predictor.temperature, "threshold": predictor.threshold,
            "sets": asdict(predictor.sets) if predictor.sets else None}
    write(f'{json.dumps(head, allow_nan=False)[:-1]}, "images": [')
    for number, item in enumerate(predictions):
        record = json.dumps(record_of(item, predictor.classes), allow_nan=False)
        write(f"{',' * (number > 0)}\n{record}")
    write("\n]}\n")


def check_output(output: str) -> None:
    """Raise BadConfig for a file of another kind, and an error of its storage if that does not answer."""
    if not output.endswith(ENDINGS):
        raise BadConfig(f"--output {output}: name a file that ends in {' or '.join(ENDINGS)}")
    folder, name = split_uri(output)
    open_folder(folder).exists(name)


def write_file(output: str, classes: Sequence[str], predictions: Iterator[Prediction]) -> None:
    """Write the answers as a table or as JSON Lines; the file is whole or absent."""
    folder_uri, name = split_uri(output)
    with tempfile.TemporaryFile() as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="", write_through=True)
        (write_lines if name.endswith(".jsonl") else write_table)(text, classes, predictions)
        file.seek(0)
        open_folder(folder_uri).write(name, file.read())


def write_lines(text: IO[str], classes: Sequence[str], predictions: Iterator[Prediction]) -> None:
    """Write an object a line."""
    for item in predictions:
        text.write(json.dumps(record_of(item, classes), allow_nan=False) + "\n")


def write_table(text: IO[str], classes: Sequence[str], predictions: Iterator[Prediction]) -> None:
    """Write a CSV; a set is a JSON list, and what a spreadsheet would take for a formula is escaped by `for_csv`."""
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "confidence", "set", *(PROBABILITY + name for name in classes), "error"])
    for item in predictions:
        record = record_of(item, classes)
        if item.members is not None:
            record["set"] = json.dumps(item.members, ensure_ascii=False)
        writer.writerow([for_csv(value) if isinstance(value, str) else value for value in record.values()])
