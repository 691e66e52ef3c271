"""A trial's predictions.csv as a table, checked against its row."""

import csv
import io
from collections.abc import Sequence

import pandas as pd

from job.folder.escape import from_csv

TEXTS = ("image", "label", "predicted")


def predictions_table(data: bytes) -> pd.DataFrame:
    """Return a trial's predictions.csv as a table: one line per image of the validation and test splits.

    Raises ValueError for a file that is not such a table.
    """
    names = dict.fromkeys((*TEXTS, "picture", "split"), str)
    check_header(data)
    # Version 0.1 called the column picture.
    table = pd.read_csv(io.BytesIO(data), dtype=names, keep_default_na=False)
    # Where lines have more values than the header has names, pandas makes the first ones an index.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("the lines have more values than the header has columns")
    table = table.rename(columns={"picture": "image"})
    if missing := [name for name in ("split", *TEXTS) if name not in table]:
        raise ValueError(f"no column {', '.join(missing)}")
    for name in TEXTS:
        if table[name].str.startswith("'").any():
            table[name] = table[name].map(from_csv)
    if strange := set(table["split"]) - {"val", "test"}:
        raise ValueError(f"{sorted(strange)[0][:40]!r} is not val or test")
    for name in table.columns[4:]:
        if table[name].dtype.kind not in "fi":
            raise ValueError(f"the column {name!r} holds something that is no number")
    return table


def check_header(data: bytes) -> None:
    """Raise ValueError if two columns have the same name: pandas would take minutes to rename 100,000 of them."""
    try:
        header = next(csv.reader(io.StringIO(data.decode(), newline="")), [])
    except csv.Error as error:
        raise ValueError(f"no table: {error}") from None
    if len(set(header)) < len(header):
        raise ValueError("two columns have the same name")


def validation_predictions(data: bytes, classes: Sequence[str] = ()) -> pd.DataFrame:
    """Return label and predicted class of the validation images in a predictions.csv, indexed by image name.

    Raises ValueError for a damaged file: no image, an image twice, or a label that is none of the classes, if given.
    """
    table = predictions_table(data)
    found = table[table["split"] == "val"].set_index("image")[["label", "predicted"]]
    if found.empty:
        raise ValueError("no validation image")
    if not found.index.is_unique:
        raise ValueError(f"the image {found.index[found.index.duplicated()][0]!r} is there twice")
    named = set(found["label"]) | set(found["predicted"])
    if classes and (strange := named - set(classes)):
        raise ValueError(f"{sorted(strange)[0][:40]!r} is no class")
    return found
