"""The page's confusion matrices, whose cells open their images, and its most confident mistakes."""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from job.data.thumbnails import thumbnails
from job.folder.storage import Folder
from job.results.figures import confusion_of, mistakes

SPLIT_NAMES = {"test": "Test", "val": "Validation"}
# Of more classes, the matrix shows those of the commonest confusions; of all, the table per class tells.
MOST_CLASSES = 20
MOST_PAIRS = 200
MOST_CONFUSIONS = 10
MOST_MISTAKES = 24
MOST_IN_CELL, MOST_RIGHT_IN_CELL = 12, 6
MOST_PICTURES = 300
MOST_PICTURE_BYTES = 1_500_000
NUM_SHADES = 6


@dataclass(frozen=True)
class Shown:
    """One image of a split: its label, what is predicted, and with what probability."""

    image: str
    split: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Cell:
    """The images of one label with one prediction. shade: how many of the label's they are, from 0 to NUM_SHADES."""

    name: str
    label: str
    predicted: str
    count: int
    shade: int
    images: list[Shown] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix. rows: of the classes shown. others: per row, images predicted as a class not shown."""

    split: str
    classes: list[str]
    rows: list[list[Cell]]
    others: list[int]
    num_images: int
    num_right: int
    num_classes: int
    confusions: list[tuple[str, str, int]]
    confusion: list[list[int]]

    @property
    def cells(self) -> list[Cell]:
        """The cells that open images."""
        return [cell for row in self.rows for cell in row if cell.images]

    @property
    def title(self) -> str:
        return SPLIT_NAMES[self.split]


@dataclass(frozen=True)
class Pictures:
    """What the page shows image by image. mistakes: the most confident first; num_mistakes: of each split, in all.

    uris: image -> data URI of its thumbnail. reasons: why some are missing.
    """

    matrices: list[Matrix]
    mistakes: list[Shown] = field(default_factory=list)
    num_mistakes: dict[str, int] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def num_without(self) -> int:
        """How many of the images that the page names have no thumbnail."""
        cells = (cell.images for matrix in self.matrices for cell in matrix.cells)
        return len({item.image for items in (self.mistakes, *cells) for item in items} - self.uris.keys())


def pictures(sweep: Folder, predictions: pd.DataFrame | None, classes: Sequence[str],
             test_confusion: list[list[int]] | None, suspects: Set[str]) -> Pictures:
    """Return the matrices of test and validation, their images and the mistakes; predictions: of one trial, or None.

    test_confusion: the row's, for a trial whose predictions are missing. suspects: images whose labels are likely
    wrong; of the mistakes they come first. Thumbnails are spent on the mistakes first, then on the cells, in turn.
    """
    if predictions is None:
        alone = [matrix("test", test_confusion, classes, None)] if test_confusion else []
        return Pictures(alone, reasons=["the trial has no predictions.csv"])
    splits = {split: lines for split in SPLIT_NAMES if len(lines := predictions[predictions["split"] == split])}
    found = [matrix(split, confusion_of(predictions, classes, split), classes, lines)
             for split, lines in splits.items()]
    wrong = mistakes(predictions)
    wrong = wrong.assign(is_suspect=wrong["image"].isin(suspects)).sort_values("is_suspect", ascending=False,
                                                                               kind="stable")
    counts = {split: int((wrong["split"] == split).sum()) for split in splits}
    first = [item for split in splits for item in shown(wrong[wrong["split"] == split].head(MOST_MISTAKES))]
    cells = sorted((cell for each in found for cell in each.cells), key=lambda cell: cell.is_right)
    names = dict.fromkeys(item.image for item in [*first, *in_turn([cell.images for cell in cells])])
    uris, reasons = thumbnails(sweep, list(names)[:MOST_PICTURES], MOST_PICTURE_BYTES)
    first.sort(key=lambda item: (item.image not in suspects, -item.probability))
    return Pictures(found, first, counts, uris, reasons)


def shown(lines: pd.DataFrame) -> list[Shown]:
    """Return lines of a table of predictions as images to show."""
    columns = (lines[name] for name in ("image", "split", "label", "predicted", "probability"))
    return [Shown(str(image), str(split), str(label), str(predicted), float(probability))
            for image, split, label, predicted, probability in zip(*columns, strict=True)]


def in_turn(cells: Sequence[Sequence[Shown]]) -> Iterator[Shown]:
    """Yield the first image of each cell, then the second of each, and so on."""
    for place in range(MOST_IN_CELL):
        for images in cells:
            yield from images[place:place + 1]


def matrix(split: str, confusion: list[list[int]], classes: Sequence[str], lines: pd.DataFrame | None) -> Matrix:
    """Return the matrix of a split; lines: its predictions. Of many classes only those of the commonest confusions."""
    counts_KK = np.asarray(confusion, dtype=np.int64)
    wrong_KK = counts_KK - np.diag(counts_KK.diagonal())
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [place for k in order if wrong_KK[place := divmod(int(k), len(classes))]]
    confused = dict.fromkeys(k for pair in pairs for k in pair)
    most = sorted(list(dict.fromkeys([*confused, *range(len(classes))]))[:MOST_CLASSES])
    groups = {} if lines is None else {(str(label), str(predicted)): group for (label, predicted), group
                                       in lines.groupby(["label", "predicted"], sort=False)}
    rows = [[cell(f"{split}-{row}-{column}", classes[row], classes[column], counts_KK[row],
                  int(counts_KK[row, column]), groups.get((classes[row], classes[column]))) for column in most]
            for row in most]
    others = counts_KK[most].sum(1) - counts_KK[np.ix_(most, most)].sum(1)
    return Matrix(split, [classes[k] for k in most], rows, others.tolist(), int(counts_KK.sum()),
                  int(counts_KK.trace()), len(classes),
                  [(classes[row], classes[column], int(wrong_KK[row, column]))
                   for row, column in pairs[:MOST_CONFUSIONS]], confusion)


def cell(name: str, label: str, predicted: str, counts_K: np.ndarray, count: int, lines: pd.DataFrame | None) -> Cell:
    """Return a cell of a row of counts, with its most confident images, or of right ones with the least confident."""
    shade = math.ceil(NUM_SHADES * count / max(1, int(counts_K.sum())))
    is_right = label == predicted
    if lines is None:
        return Cell(name, label, predicted, count, shade)
    order = lines.sort_values("probability", ascending=is_right, kind="stable")
    first = order.head(MOST_RIGHT_IN_CELL if is_right else MOST_IN_CELL)
    return Cell(name, label, predicted, count, shade, shown(first))

