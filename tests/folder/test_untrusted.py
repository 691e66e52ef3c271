"""What is read from a sweep folder is checked first, and text from outside is escaped where it is shown."""

import csv
import io
import json
import string

import pytest

from job.errors import BadConfig, TryAgain
from job.folder.escape import for_csv, for_terminal, for_workbook, from_csv, lines_for_terminal
from job.folder.layout import read_epochs, read_json, read_row
from job.folder.storage import Folder
from job.folder.untrusted import bounded_json, check_types, fits
from job.record import Row, row_to_json
from job.trial import Trial
from support import leave_row, make_epochs

BAD_JSON = {
    "deep": b"[" * 100_000, "deeper than we write": b"[" * 30 + b"]" * 30,
    "nan": b'{"a": NaN}', "large": b'{"a": 1e999}',
    "digits": b'{"a": 1' + b"0" * 30 + b"}", "more digits": b'{"a": 1' + b"0" * 5000 + b"}", "cut": b'{"a": ',
    "bytes": b"\xff\xfe\xfa", "empty": b""}


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_json_that_is_deep_or_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        bounded_json(data)


def test_size_of_json_is_bounded() -> None:
    assert bounded_json(b"[1, 2]", 6) == [1, 2]
    with pytest.raises(ValueError, match="7 bytes, more than the 6"):
        bounded_json(b"[1, 20]", 6)


def test_types_are_those_of_the_fields_and_a_bool_is_no_number() -> None:
    assert fits(1, float) and fits(None, float | None) and fits([[1, 2], [3]], list[list[int]])
    matrix = list[list[int]]
    for value, kind in ((True, int), (True, float), ("1", int), (1.0, int), (2**60, int), ([[1, True]], matrix),
                        ([["1"]], matrix), ([1], dict[str, int]), ({"a": "b"}, dict[str, int]), (1, str)):
        assert not fits(value, kind), (value, kind)
    with pytest.raises(ValueError, match="epochs is 'x', which is not a whole number"):
        check_types(Trial, {"epochs": "x"})


ROW = json.loads(row_to_json(Row(settings={"trial": "1", "lr": 0.1, "epochs": 2}, status="done", pack_hash="p")))
BAD_ROWS = {
    "no object": b"[]", "nothing": b"", "deep": b'{"trial": ' * 2000, "other trial": json.dumps({**ROW, "trial": "2"}),
    "trial a list": json.dumps({**ROW, "trial": ["1"]}), "epochs": json.dumps({**ROW, "epochs": "x"}),
    "status": json.dumps({**ROW, "status": "fine"}), "surrogate": json.dumps({**ROW, "host": "\ud800"}),
    "figure": json.dumps({**ROW, "best_val_acc": "0.9"}), "bool": json.dumps({**ROW, "best_epoch": True}),
    "classes": json.dumps({**ROW, "classes": {"a": 1}}), "confusion": json.dumps({**ROW, "test_confusion": [1]}),
    "huge": json.dumps({**ROW, "epochs_run": 10**40}), "nan": json.dumps({**ROW, "lr": float("nan")})}


@pytest.mark.parametrize("text", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_damaged_row_is_refused_by_name_whatever_is_wrong_with_it(text: str | bytes, folder: Folder) -> None:
    folder.write("trials/1/row.json", text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadConfig, match=r"trials/1/row\.json: .*; delete it"):
        read_row(folder, "1")


def test_row_that_failed_on_a_name_that_is_not_utf_8_can_be_read(folder: Folder) -> None:
    leave_row(folder, Trial(trial="1"), [], status="failed", cause="/w\udcff.pt: there is no such file")
    row = read_row(folder, "1")
    assert row and row.cause == r"/w\udcff.pt: there is no such file"


HEAD = b"epoch,train_loss,train_acc,val_loss,val_acc\n"


@pytest.mark.parametrize("lines", [
    b"1," + b"9" * 200_000 + b",1,1,1\n", b"1,1,\xff,1,1\n", b"1.5,1,1,1,1\n", b"-1,1,1,1,1\n", b"1,1,1,1\n",
    b"2,1,1,1,1\n1,1,1,1,1\n", b"1,1_0,1,1,1\n", b"1,1\n", b"inf,1,1,1,1\n"])
def test_damaged_table_of_epochs_is_refused_by_name(lines: bytes, folder: Folder) -> None:
    folder.write("trials/1/epochs.csv", HEAD + lines)
    with pytest.raises(BadConfig, match=r"trials/1/epochs\.csv: .*; restore"):
        read_epochs(folder, "1")


def test_bad_reading_is_not_taken_for_a_damaged_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a.json", b'{"a": 1}')
    answers = [b'{"a"']
    whole = folder.read
    monkeypatch.setattr(folder, "read", lambda name: answers.pop() if answers else whole(name))
    assert read_json(folder, "a.json") == {"a": 1}
    answers += [b'{"a', b'{"a"']
    with pytest.raises(TryAgain, match="two readings differ"):
        read_json(folder, "a.json")
    monkeypatch.undo()
    folder.write("a.json", b'{"a"')
    with pytest.raises(BadConfig, match="not JSON"):
        read_json(folder, "a.json")


def test_terminal_shows_controls_as_escapes_and_words_of_every_script_as_they_are() -> None:
    assert for_terminal("a\x1b]0;x\x07b\x9b2J\u202ec\u2066\n\t\ud800\x7f") == (
        r"a\x1b]0;x\x07b\x9b2J\u202ec\u2066\n\t\ud800\x7f")
    words = "Löwe, 猫, кошка, קוף, می‌خواهم, 👩‍🔬, naïve ' \" \\ < > [b]"
    assert for_terminal(words) == words
    assert lines_for_terminal("a\nb\r") == "a\nb\\r"
    assert for_terminal(for_terminal("\x1b[0m")) == for_terminal("\x1b[0m")


def test_cell_of_a_workbook_holds_no_control_and_is_not_too_long() -> None:
    assert for_workbook("a\x1b\udcff\n=1") == "a\\x1b\\udcff\n=1"
    assert len(for_workbook("é" * 100_000)) < 32_767


FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=", "-", "'=1", "''@a"]
PLAIN = ["", "cat", "bar/bar00.jpg", "-1", "+1", "-1.5e3", "'", "'quoted'", "a=b", "1-2", " =1", "p =a"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_cell_of_a_csv_is_no_formula_and_reads_back(text: str) -> None:
    cell = for_csv(text)
    assert from_csv(cell) == text
    if text in PLAIN:
        assert cell == text
    else:
        assert cell == f"'{text}"
    line = io.StringIO(newline="")
    csv.writer(line).writerow([cell])
    assert next(csv.reader(io.StringIO(line.getvalue(), newline="")), [""])[0] == cell


def test_every_beginning_reads_back_as_a_cell_of_a_csv() -> None:
    for first in string.printable:
        for second in string.printable:
            assert from_csv(for_csv(f"{first}{second}x")) == f"{first}{second}x"


def test_epochs_of_a_healthy_trial_are_read(folder: Folder) -> None:
    leave_row(folder, Trial(trial="1", epochs=3), make_epochs(3, 0.5))
    assert read_epochs(folder, "1") == make_epochs(3, 0.5) and read_row(folder, "1")
