"""The command line as a whole: it starts at once, and bad input exits with its code and says where."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from job.cli.main import named
from job.folder.local import LocalFolder
from support import ROOT, environment, job, start_job, wait_for_line


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; sys.argv = ['job', '--help']\nfrom job.cli.main import main\ntry:\n    main()\nfinally:\n"
            "    heavy = {'torch', 'pandas', 'boto3', 'PIL', 'numpy', 'tensorboard'} & set(sys.modules)\n"
            "    print('HEAVY', heavy)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(),
                          check=False)
    assert "HEAVY set()" in done.stdout and "sweep" in done.stdout


@pytest.mark.parametrize(("args", "code", "part"), [
    (("sweep", "--grid", "{tmp}/absent.csv", "{tmp}/s"), 66, "absent.csv"),
    (("sweep", "--grid", "{tmp}/bad.csv", "{tmp}/s"), 78, "bad.csv: line 2, column lr"),
    (("sweep", "--grid", "{tmp}/good.csv", "{tmp}/s"), 66, "--images"),
    (("sweep", "--grid", "{tmp}/good.csv", "--images", "{tmp}/nothing", "{tmp}/s"), 66, "no images"),
    (("sweep", "--grid", "{tmp}/good.csv", "--images", "{tmp}/nothing", "--val", "0", "{tmp}/s"), 78, "--val is 0"),
    (("prepare", "{tmp}/nothing", "ftp://x/y"), 78, "ftp:// is not supported"),
    (("sweep", "{tmp}/s", "--no-such-option"), 2, "No such option"),
    (("grid", "--lr", "0", "--epochs", "10"), 78, "--lr is 0"),
    (("grid", "--lr", "nan"), 78, "--lr is nan; give a finite number"),
    (("grid", "--epochs", "1_0"), 2, "'1_0'; give a whole number"),
    (("grid", "--epochs", "\u0661\u0660"), 2, "give a whole number"),
    (("grid", "--lr", "1_0"), 2, "'1_0'; give a number"),
    (("grid", "--seed", "9" * 5000), 2, "give a whole number"),
    (("grid", "--model", "mlp", "--weights", "none", "--hidden", "99999-99999"), 78, "--hidden is '99999-99999': with"),
    (("plan", "{tmp}", "--price", "1e400"), 2, "it is inf; give a number from 0 to"),
    (("plan", "{tmp}", "--price", "nan"), 2, "it is nan; give a number from 0 to"),
    (("plan", "{tmp}", "--price", "-1"), 2, "it is -1; give a number from 0 to"),
    (("plan", "{tmp}", "--price", "1e300"), 2, "give a number from 0 to"),
    (("sweep", "{tmp}", "--workers", "6_4"), 2, "'6_4'; give a whole number"),
    (("sample", "{tmp}/d", "--num", "2_0"), 2, "'2_0'; give a whole number"),
    (("sample", "{tmp}/d", "--seed", "-1"), 2, "it is -1; give a number from 0 to 4294967295"),
    (("sample", ""), 78, "is empty (an unset variable?)"),
    (("tensorboard", "{tmp}", "--port", "99999"), 2, "give a number from 0 to 65535"),
    (("prepare", "{tmp}", "{tmp}/s", "--split-seed", "1_0"), 2, "'1_0'; give a whole number"),
    (("train", "{tmp}/s", "--trial", "1", "--epochs", "9", "--shorter", "2=\u0661"), 78, "give NAME=EPOCHS"),
    (("gather", "{tmp}"), 66, "no trial has a row"),
    (("status", "{tmp}"), 66, "grid.csv"),
    (("predict", "{tmp}", "x.jpg"), 66, "no trial has a row"),
    (("gather", "{tmp}/s"), 66, "/s: there is no such folder"),
    (("status", "{tmp}/s"), 66, "/s: there is no such folder"),
    (("predict", "{tmp}/s", "x.jpg"), 66, "/s: there is no such folder"),
    (("rerun", "{tmp}/s", "--failed", "--image", "x"), 66, "/s: there is no such folder"),
    (("manifests", "{tmp}/s", "--image", "x"), 66, "/s: there is no such folder"),
    (("sweep", "{tmp}/s"), 66, "/s: there is no such folder"),
    (("train", "{tmp}/s", "--trial", "1"), 66, "/s: there is no such folder"),
    (("plan", "{tmp}/s"), 66, "/s: there is no such folder"),
    (("sample", "{tmp}"), 78, "not empty"),
])
def test_bad_input_exits_with_its_code_and_says_where(
        args: tuple[str, ...], code: int, part: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("trial,lr,epochs\n1,quick,2\n")
    (tmp_path / "good.csv").write_text("trial,lr,epochs\n1,0.1,2\n")
    done = job(*(arg.format(tmp=tmp_path) for arg in args))
    assert done.code == code, done.err
    assert part in done.err and "Traceback" not in done.err


def test_short_help_and_completion_work() -> None:
    assert job("-h").out == job("--help").out
    assert "--watch" in job("status", "-h").out
    script = [sys.executable, "-c", "import sys; sys.argv = ['job']; from job.cli.main import main; main()"]
    asked = {"_JOB_COMPLETE": "complete_bash", "COMP_WORDS": "job stat", "COMP_CWORD": "1"}
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment(**asked), check=False)
    assert done.stdout.split() == ["status"], done.stderr


def test_ctrl_c_ends_a_waiting_command_with_143_and_one_line(three_rows: LocalFolder) -> None:
    for command in ("status", "gather"):
        process = start_job(command, three_rows.uri, "--watch")
        wait_for_line(process, "1 waiting" if command == "status" else "workbook:")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 143 and "job: stopped by Ctrl-C" in out and "Traceback" not in out, out


def test_both_names_import_the_same() -> None:
    program = "import job, trialgrid; assert trialgrid is job and trialgrid.open is job.open"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=True)


def test_predict_of_what_does_not_exist_exits_66(finished: Path, tmp_path: Path) -> None:
    assert job("predict", finished, tmp_path / "gone.jpg", "--trial", "1").code == 66
    folder = job("predict", finished, tmp_path, "--trial", "1")
    assert folder.code == 66 and "no image in this folder" in folder.err
    assert "the trials that have them: 1" in job("predict", finished, "x.jpg", "--trial", "9").err


def test_predict_prints_no_key_of_an_images_uri(finished: Path) -> None:
    for image in ("s3://KEY:hunter22@bucket/x.jpg", "https://host/x.jpg?X-Amz-Signature=hunter22"):
        done = job("predict", finished, image, "--trial", "1")
        assert done.code == 78 and "hunter22" not in done.out + done.err and "job: " in done.err


def test_sweep_under_a_file_and_unknown_home_are_bad_configuration(finished: Path) -> None:
    under = job("sweep", finished / "grid.csv" / "x")
    assert under.code == 78 and "file is where a folder is needed" in under.err
    assert job("status", "~nosuchuser/x").code == 78


def test_full_standard_output_exits_75() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "job", "grid", "--lr", "0.1"], stdout=full, stderr=subprocess.PIPE,
                              text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 75 and "Traceback" not in done.stderr


def test_error_that_no_code_catches_names_its_file_and_has_its_exit_code() -> None:
    for error, code, text in (
            (PermissionError(errno.EACCES, "Permission denied", "/t/x"), 77, "/t/x: Permission denied"),
            (OSError(errno.ENOSPC, "No space left on device", b"/t/y"), 75, "/t/y: No space left"),
            (OSError(errno.ENOSPC, "No space left on device"), 75, "standard output: No space left"),
            (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), 75, "the system: No usable temporary")):
        found = named(error)
        assert found.exit_code == code and str(found).startswith(text)


def test_message_with_control_characters_does_not_steer_the_terminal(tmp_path: Path) -> None:
    done = job("status", tmp_path / "a\x1b[2Jb")
    assert done.code == 66 and "\x1b" not in done.err and r"a\x1b[2Jb" in done.err
