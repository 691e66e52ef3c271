"""A trial's predictions.csv as a table, checked against its row; those of earlier versions too."""

import csv
import io
from collections.abc import Sequence

import pandas as pd

from job.folder.escape import from_csv
from job.record import PROBABILITY, Row
from job.results.sets import COVERAGE, Sets, sets_of

TEXTS = ("image", "label", "predicted")
# Of the header of a class's probability; earlier versions wrote a blank instead of the underscore.
OLD_PROBABILITY = "p "
# Of more classes a summary keeps the probability of the predicted class alone: 200 trials share the memory.
MOST_PROBABILITIES = 10


def predictions_table(data: bytes) -> pd.DataFrame:
    """Return a trial's predictions.csv as a table: one line per image of the validation and test splits.

    Columns: split, image, label, predicted, correct (bool), and the probability of each class in p_CLASS. Raises
    ValueError for a file that is not such a table.
    """
    names = dict.fromkeys((*TEXTS, "picture", "split", "correct"), str)
    check_header(data)
    table = pd.read_csv(io.BytesIO(data), dtype=names, keep_default_na=False)
    # Where lines have more values than the header has names, pandas makes the first ones an index.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("the lines have more values than the header has columns")
    table = with_current_names(table)
    if missing := [name for name in ("split", *TEXTS) if name not in table]:
        raise ValueError(f"no column {', '.join(missing)}")
    for name in TEXTS:
        if table[name].str.startswith("'").any():
            table[name] = table[name].map(from_csv)
    if strange := set(table["split"]) - {"val", "test"}:
        raise ValueError(f"{sorted(strange)[0][:40]!r} is not val or test")
    correct = table["label"] == table["predicted"]
    if "correct" in table and (table["correct"].str.lower() != correct.map({True: "true", False: "false"})).any():
        raise ValueError("the column 'correct' does not agree with label and predicted")
    probabilities = table.drop(columns=["split", *TEXTS, "correct"], errors="ignore")
    for name in probabilities:
        if table[name].dtype.kind not in "fi" or not table[name].between(0, 1).all():
            raise ValueError(f"the column {name!r} holds something that is no probability")
    return pd.concat([table[["split", *TEXTS]], correct.rename("correct"), probabilities], axis=1)


def with_current_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of an earlier version with today's names: it has no `correct`, and says `p CLASS`.

    Version 0.1 called the column of the images `picture`.
    """
    names = {"picture": "image"}
    if "correct" not in table:
        names |= {name: PROBABILITY + name.removeprefix(OLD_PROBABILITY) for name in table.columns
                  if name.startswith(OLD_PROBABILITY)}
    table = table.rename(columns=names)
    if not table.columns.is_unique:
        raise ValueError("two columns have the same name")
    return table


def check_header(data: bytes) -> None:
    """Raise ValueError if two columns have the same name: pandas would take minutes to rename 100,000 of them."""
    try:
        header = next(csv.reader(io.StringIO(data.decode(), newline="")), [])
    except csv.Error as error:
        raise ValueError(f"no table: {error}") from None
    if len(set(header)) < len(header):
        raise ValueError("two columns have the same name")


def with_sets(data: bytes, row: Row) -> tuple[pd.DataFrame, Sets]:
    """Return a predictions.csv as `whole_predictions` does, and the prediction sets that follow from it.

    Of more than 10 classes the table is without the columns p_CLASS.
    """
    table = whole_predictions(data, row.classes, row)
    return trimmed(table, row.classes), sets_of(table, row.classes, COVERAGE)


def trimmed(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the table of predictions without the probabilities of the classes, if those are many."""
    return table if len(classes) <= MOST_PROBABILITIES else table.drop(columns=[PROBABILITY + name for name in classes])


def check_counts(table: pd.DataFrame, row: Row) -> None:
    """Raise ValueError if a table has more or fewer images than its trial's row: it was cut off between two lines."""
    for split, num in (("val", row.num_val), ("test", row.num_test)):
        if row.num_val and (found := int((table["split"] == split).sum())) != num:
            raise ValueError(f"it has {found} {split} image{'s' * (found != 1)}, and the row says {num}")


def whole_predictions(data: bytes, classes: Sequence[str], row: Row | None = None) -> pd.DataFrame:
    """Return a predictions.csv as `predictions_table` does, with the column `probability` of the predicted class.

    Raises ValueError for a damaged file: no validation image, an image twice, another number of images than the row
    has, a label that is none of the classes, or columns that are not theirs.
    """
    table = predictions_table(data)
    if not (table["split"] == "val").any():
        raise ValueError("no validation image")
    if row:
        check_counts(table, row)
    if (twice := table.duplicated(["split", "image"])).any():
        raise ValueError(f"the image {table['image'][twice].iloc[0]!r} is there twice")
    columns = [name for name in table if name.startswith(PROBABILITY)]
    named = set(table["label"]) | set(table["predicted"])
    if strange := named - set(classes):
        raise ValueError(f"{sorted(strange)[0][:40]!r} is no class")
    if columns != [PROBABILITY + name for name in classes]:
        raise ValueError("the columns of probabilities are not those of the classes")
    places = pd.Index(columns).get_indexer(PROBABILITY + table["predicted"])
    found = table[columns].to_numpy(dtype=float)
    probability = pd.Series(found[range(len(table)), places], name="probability")
    return pd.concat([table, probability], axis=1)
