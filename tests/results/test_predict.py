"""`job predict` uses the trial that the sweep recommends, says why, and without one needs --trial."""

from pathlib import Path

from support import job


def test_predict_without_a_recommended_trial_says_so_and_classifies_nothing(finished: Path, shapes: Path) -> None:
    image = shapes / "disc" / "disc00.jpg"
    done = job("predict", finished, image)
    assert done.code == 66 and done.out == "" and "Traceback" not in done.err
    assert "No trial beats always saying 'disc'; use none of them." in done.err and "--trial NAME" in done.err


def test_trial_that_is_named_classifies_whether_it_is_recommended_or_not(finished: Path, shapes: Path) -> None:
    image = shapes / "disc" / "disc00.jpg"
    done = job("predict", finished, image, "--trial", "1")
    assert done.code == 0 and done.out.startswith("best weights of trial 1\n") and done.err == ""
    assert str(image) in done.out.splitlines()[1]
