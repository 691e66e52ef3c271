"""What a trial leaves behind: one `Epoch` per pass over the images, and one `Row`, written last."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any, Literal

# What the columns of predictions.csv begin with that hold the probability of a class.
PROBABILITY = "p_"
FIGURES = ("train_loss", "train_acc", "val_loss", "val_acc")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images and the validation after it; accuracies run from 0 to 1."""

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    lr: float | None = None
    images_per_second: float | None = None
    train_seconds: float | None = None
    val_seconds: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss is NaN or infinite; training cannot recover from that."""
        return not (math.isfinite(self.train_loss) and math.isfinite(self.val_loss))


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of one trial. `settings` are the Trial's fields; a figure that does not exist is None.

    Medians are over epochs, as in the studies. For two classes, precision, recall, F1 and false negatives describe the
    positive class; for more, they are means over the classes, and errors are counted instead of false negatives. Test
    figures belong to the best epoch's weights; those of last_test_* belong to the last epoch's. Figures that end in
    _at_threshold use the threshold that reached the wanted recall on validation; the others use 0.5. Probabilities are
    calibrated: softmax(logits / temperature), of raw logits where there is no temperature, as in old rows. `trained_by`
    names the longer trial of the trajectory that wrote this row, if one did; the seconds then run up to this trial's
    own last epoch. `continued_from` names the finished shorter trial whose last checkpoint this training began from;
    the seconds count both. `race`: of a trial that the race stopped early, the decision
    (`job.training.race.Place.as_record`); its figures run up to there, and it has none of test.
    """

    settings: dict[str, Any]
    status: Literal["done", "diverged", "raced", "failed"]
    cause: str = ""
    trained_by: str = ""
    continued_from: str = ""
    epochs_run: int = 0
    median_train_loss: float | None = None
    median_train_acc: float | None = None
    median_val_loss: float | None = None
    median_val_acc: float | None = None
    best_epoch: int | None = None
    best_reason: str = ""
    best_train_loss: float | None = None
    best_train_acc: float | None = None
    best_val_loss: float | None = None
    best_val_acc: float | None = None
    last_train_loss: float | None = None
    last_train_acc: float | None = None
    last_val_loss: float | None = None
    last_val_acc: float | None = None
    test_loss: float | None = None
    test_acc: float | None = None
    test_precision: float | None = None
    test_recall: float | None = None
    test_f1: float | None = None
    test_false_negatives: int | None = None
    test_errors: int | None = None
    test_confusion: list[list[int]] | None = None
    test_roc_auc: float | None = None
    test_average_precision: float | None = None
    last_test_acc: float | None = None
    last_test_false_negatives: int | None = None
    last_test_errors: int | None = None
    threshold: float | None = None
    threshold_margin: float | None = None
    val_recall_at_threshold: float | None = None
    test_acc_at_threshold: float | None = None
    test_precision_at_threshold: float | None = None
    test_recall_at_threshold: float | None = None
    test_f1_at_threshold: float | None = None
    test_false_negatives_at_threshold: int | None = None
    test_confusion_at_threshold: list[list[int]] | None = None
    temperature: float | None = None
    val_nll: float | None = None
    val_nll_calibrated: float | None = None
    val_brier: float | None = None
    val_ece: float | None = None
    val_ece_low: float | None = None
    val_ece_high: float | None = None
    test_nll: float | None = None
    test_nll_calibrated: float | None = None
    test_brier: float | None = None
    test_ece: float | None = None
    test_ece_low: float | None = None
    test_ece_high: float | None = None
    calibration_note: str = ""
    classes: list[str] = field(default_factory=list)
    num_train: int = 0
    num_val: int = 0
    num_test: int = 0
    seconds: float | None = None
    train_seconds: float | None = None
    val_seconds: float | None = None
    images_per_second: float | None = None
    device: str = ""
    precision_used: str = ""
    features: str = ""
    race: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    image: str = ""
    pack_hash: str = ""
    started_at: str = ""
    finished_at: str = ""

    @property
    def trial(self) -> str:
        """The trial's name."""
        return str(self.settings["trial"])


# Fields that may differ between two runs of a trial on the same machine.
CLOCKS_AND_HOST = ("trained_by", "continued_from", "seconds", "train_seconds", "val_seconds", "images_per_second",
                   "host", "started_at", "finished_at")


def finite(value: Any) -> Any:
    """Return `value`, or None for a NaN or infinite number, which JSON and workbooks cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(epochs: Sequence[Epoch], best: Epoch | None) -> dict[str, Any]:
    """Return the Row's fields that follow from the epochs: medians, last and best figures, seconds and speed."""
    found: dict[str, Any] = {"epochs_run": len(epochs), "best_epoch": best.epoch if best else None}
    # The accuracy of an epoch whose loss is not finite means nothing.
    finite_epochs = [epoch for epoch in epochs if not epoch.diverged]
    for name in FIGURES:
        values = [getattr(epoch, name) for epoch in finite_epochs]
        found[f"median_{name}"] = statistics.median(values) if values else None
        found[f"last_{name}"] = getattr(epochs[-1], name) if epochs and not epochs[-1].diverged else None
        found[f"best_{name}"] = finite(getattr(best, name)) if best else None
    found |= {name: sum(getattr(epoch, name) or 0.0 for epoch in epochs) for name in ("train_seconds", "val_seconds")}
    found["seconds"] = found["train_seconds"] + found["val_seconds"]
    rates = [epoch.images_per_second for epoch in epochs if epoch.images_per_second]
    found["images_per_second"] = statistics.median(rates) if rates else None
    return found


def row_to_json(row: Row) -> str:
    """Return the row as one flat JSON object: the trial's settings first, then every other field."""
    flat = {**row.settings, **{key: finite(value) for key, value in asdict(row).items() if key != "settings"}}
    # A cause may name a file whose name is not UTF-8.
    flat["cause"] = row.cause.encode("utf-8", "backslashreplace").decode()
    return json.dumps(flat, indent=1, allow_nan=False) + "\n"


def row_of(flat: Any) -> Row:
    """Return the Row of the JSON object that `row_to_json` wrote; raises ValueError if it is not one."""
    names = {spec.name for spec in fields(Row) if spec.name != "settings"}
    if not isinstance(flat, dict) or not {"trial", "status"} <= flat.keys():
        raise ValueError("not a trial's row: 'trial' or 'status' is missing")
    flat = with_current_names(flat)
    settings = {key: value for key, value in flat.items() if key not in names}
    return Row(settings=settings, **{key: value for key, value in flat.items() if key in names})


def with_current_names(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a row of an earlier version under today's names: it called the errors of many classes false negatives."""
    classes = flat.get("classes")
    if not isinstance(classes, list) or len(classes) <= 2:
        return flat
    errors = {name.replace("false_negatives", "errors"): flat[name]
              for name in ("test_false_negatives", "last_test_false_negatives") if flat.get(name) is not None}
    return {**flat, **{name.replace("errors", "false_negatives"): None for name in errors}, **errors}


def epochs_to_csv(epochs: Iterable[Epoch]) -> str:
    """Return a CSV with one line per epoch; the numbers read back bit for bit the same."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(spec.name for spec in fields(Epoch))
    writer.writerows(map(astuple, epochs))
    return text.getvalue()


def epochs_from_csv(text: str) -> list[Epoch]:
    """Return the epochs of a CSV that `epochs_to_csv` wrote, or of any CSV with its first five columns.

    Raises ValueError naming the line.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    epochs: list[Epoch] = []
    try:
        for cells in reader:
            values = {spec.name: number(cells[spec.name]) for spec in fields(Epoch) if cells.get(spec.name)}
            if not values["epoch"].is_integer() or values["epoch"] <= (epochs[-1].epoch if epochs else -1):
                raise ValueError(f"epoch is {cells['epoch']!r}; epochs are whole numbers that rise from line to line")
            epochs.append(Epoch(**{**values, "epoch": int(values["epoch"])}))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return epochs


def number(cell: str) -> float:
    """Return the number of a cell; raises ValueError for 1_0, which Python alone takes for 10."""
    if "_" in cell:
        raise ValueError(f"could not convert string to float: {cell!r}")
    return float(cell)
