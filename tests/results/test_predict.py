"""`job predict`: which trial it uses, what it answers for, in which forms, and that company changes no answer."""

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from job.data.named import images_named
from job.folder.storage import open_folder
from job.results.answers import record_of
from job.results.predict import Prediction, load_predictor
from job.results.sets import COVERAGE, in_set
from job.training.weights import About, read_about, weights_to_bytes
from support import S3, draw, job, on_terminal, plain

CLASSES = ["bar", "disc", "ring"]


def sources(calibrated: Path) -> Path:
    """The images of the sweep."""
    return calibrated.parent / "images"


def answers(calibrated: Path, *arguments: Path | str) -> list[Prediction]:
    """Predictions of trial 2, made here."""
    predictor = load_predictor(open_folder(str(calibrated)), "2")
    return list(predictor.predict(images_named([str(argument) for argument in arguments])))


def test_predict_without_a_recommended_trial_says_so_and_classifies_nothing(finished: Path, shapes: Path) -> None:
    image = shapes / "disc" / "disc00.jpg"
    done = job("predict", finished, image)
    assert done.code == 66 and done.out == "" and "Traceback" not in done.err
    assert "No trial beats always saying 'disc'; use none of them." in done.err and "--trial NAME" in done.err


def test_trial_that_is_named_classifies_whether_it_is_recommended_or_not(finished: Path, shapes: Path) -> None:
    image = shapes / "disc" / "disc00.jpg"
    done = job("predict", finished, image, "--trial", "1")
    assert done.code == 0 and done.out.startswith("best weights of trial 1") and done.err == ""
    _, sets, line = done.out.splitlines()
    assert sets == "no prediction sets: a coverage of 0.9 needs 9 validation images, and there are 7"
    assert line.startswith(f"{image}  ") and "unsure" not in line


def test_answers_are_the_calibrated_probabilities_of_predictions_csv_with_their_sets(calibrated: Path) -> None:
    table = pd.read_csv(calibrated / "trials" / "2" / "predictions.csv")
    found = answers(calibrated, *(sources(calibrated) / name for name in table["image"]))
    limit = 1 - sorted(table[table["split"] == "val"].apply(lambda line: line[f"p_{line['label']}"], axis=1))[42 - 39]
    for line, item in zip(table.to_dict("records"), found, strict=True):
        assert item.probabilities == pytest.approx([line[f"p_{name}"] for name in CLASSES], abs=1e-6)
        assert item.label == line["predicted"] and item.confidence == max(item.probabilities)
        assert item.members == [CLASSES[place] for place in in_set(item.probabilities, limit)]
        assert item.is_unsure == (item.members != [item.label])


def test_company_changes_no_answer_bit_for_bit(calibrated: Path) -> None:
    """In whatever batch, at whatever place in it, beside files that are no images."""
    images = sorted(sources(calibrated).rglob("*.jpg"))
    together = {item.image: item.probabilities for item in answers(calibrated, *images)}
    backwards = {item.image: item.probabilities for item in answers(calibrated, "absent.jpg", *images[::-1])}
    alone = {item.image: item.probabilities for image in images[::10] for item in answers(calibrated, image)}
    assert len(together) == 150 and backwards.pop("absent.jpg") == ()
    assert backwards == together and alone == {image: together[image] for image in alone}


def test_folder_pattern_and_files_give_the_same_answers_in_every_form(calibrated: Path, tmp_path: Path) -> None:
    folder, arguments = sources(calibrated) / "disc", ("--trial", "2", "--coverage", 0.8)
    printed = json.loads(job("predict", calibrated, folder, *arguments, "--json").out)
    assert (printed["command"], printed["trial"], printed["classes"]) == ("predict", "2", CLASSES)
    assert printed["sets"]["coverage"] == 0.8 and printed["temperature"] > 0
    for name, argument in (("found.jsonl", f"{folder}/*.jpg"), ("found.csv", folder)):
        done = job("predict", calibrated, argument, *arguments, "--output", tmp_path / name)
        assert done.code == 0 and done.out.endswith(f"predictions of 50 images: {tmp_path / name}\n"), done
    assert [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()] == printed["images"]
    head, *table = csv.reader((tmp_path / "found.csv").read_text().splitlines())
    assert head == ["image", "label", "confidence", "set", "p_bar", "p_disc", "p_ring", "error"]
    for (image, label, *numbers, error), item in zip(table, printed["images"], strict=True):
        assert (image, label, json.loads(numbers.pop(1)), error or None) == tuple(
            item[name] for name in ("image", "label", "set", "error"))
        assert [float(number) for number in numbers] == [
            item[name] for name in ("confidence", "p_bar", "p_disc", "p_ring")]
    lines = job("predict", calibrated, *sorted(folder.iterdir()), *arguments).out.splitlines()[2:]
    for line, item in zip(lines, printed["images"], strict=True):
        unsure = "" if item["set"] == [item["label"]] else f"  unsure: {' or '.join(item['set']) or 'no class'}"
        assert line == f"{item['image']}  {item['label']}  {item['confidence']:.3f}{unsure}"


def test_file_that_is_no_image_is_named_and_the_others_are_answered(calibrated: Path, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "good.jpg", "disc", 1)
    draw(tmp_path / "in" / "cut.jpg", "disc", 2)
    (tmp_path / "in" / "cut.jpg").write_bytes((tmp_path / "in" / "cut.jpg").read_bytes()[:700])
    (tmp_path / "in" / "=1+1.jpg").write_text("no image")
    done = job("predict", calibrated, tmp_path / "in", "--trial", "2", "--output", tmp_path / "found.csv")
    assert done.code == 65 and "2 of the images could not be read; the first: " in done.err
    found = pd.read_csv(tmp_path / "found.csv", keep_default_na=False).set_index("image")
    assert found.loc[f"{tmp_path}/in/good.jpg", "label"] in CLASSES
    assert found.loc[f"{tmp_path}/in/=1+1.jpg", "error"].startswith("not an image in a supported format")
    assert found.loc[f"{tmp_path}/in/cut.jpg", "error"] and found.loc[f"{tmp_path}/in/cut.jpg", "p_disc"] == ""
    done = job("predict", calibrated, tmp_path / "in", tmp_path / "absent.jpg", "--trial", "2")
    assert done.code == 65 and len(done.out.splitlines()) == 2 + 4 and done.out.count("not read: ") == 3
    done = job("predict", calibrated, tmp_path / "in/good.jpg", tmp_path / "absent.jpg", "--trial", "2", "--json")
    good, absent = json.loads(done.out)["images"]
    assert done.code == 66 and good["label"] and absent["label"] is None and "no such file" in absent["error"]


def test_nothing_to_classify_and_wrong_options_say_why(calibrated: Path, tmp_path: Path) -> None:
    image = next(sources(calibrated).rglob("*.jpg"))
    for arguments, code, part in (((tmp_path,), 66, "no image in this folder"), ((f"{tmp_path}/*.jpg",), 66, "no file"),
                                  ((image, "--coverage", "1"), 78, "such as 0.9"),
                                  ((image, "--output", "found.txt"), 78, "ends in .csv or .jsonl"),
                                  ((image, "--output", "f.csv", "--json"), 78, "give one of them")):
        done = job("predict", calibrated, *arguments, "--trial", "2")
        assert done.code == code and part in done.err and done.out == "", done


def test_name_that_begins_like_a_formula_is_text_in_the_table(calibrated: Path, tmp_path: Path) -> None:
    draw(tmp_path / "=1+1.jpg", "disc", 1)
    target = tmp_path / "found.csv"
    predictor = load_predictor(open_folder(str(calibrated)), "2")
    from job.results.answers import write_file

    named = [image.__class__(image.folder, image.name, image.name) for image in images_named([str(tmp_path)])]
    write_file(str(target), CLASSES, predictor.predict(named))
    assert target.read_text().splitlines()[1].startswith("'=1+1.jpg,")


def test_terminal_has_a_header_columns_and_a_bar_and_a_pipe_has_neither(calibrated: Path) -> None:
    folder = sources(calibrated) / "ring"
    shown = on_terminal(160, "predict", calibrated, folder, "--trial", "2")
    lines = [line for line in plain(shown).replace("\r", "\n").splitlines() if "  " in line]
    head = next(line for line in lines if line.startswith("image "))
    rows = [line for line in lines if line.startswith(str(folder)) and ".jpg" in line]
    place = head.index("confidence")
    assert len(rows) == 50 and all(line[place:place + 2] in ("0.", "1.") for line in rows)
    assert "predicting 50 images" in shown
    assert "predicting" not in job("predict", calibrated, folder, "--trial", "2").err


def test_images_and_output_in_a_store(calibrated: Path, s3: S3) -> None:
    uri = s3.upload(sources(calibrated) / "bar", "to-predict/bar")
    done = job("predict", calibrated, f"{uri}/", "--trial", "2", "--output", "s3://bucket/found/one.jsonl", **s3.env)
    assert done.code == 0, done.err
    body = s3.client().get_object(Bucket="bucket", Key="found/one.jsonl")["Body"].read().decode()
    found = [json.loads(line) for line in body.splitlines()]
    here = [record_of(item, CLASSES) for item in answers(calibrated, sources(calibrated) / "bar")]
    assert [{**item, "image": ""} for item in found] == [{**item, "image": ""} for item in here]


def test_weights_of_a_gpu_in_fp16_classify_on_a_cpu_and_bad_temperatures_are_refused(
        calibrated: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(calibrated, tmp_path / "sweep"))
    path, image = sweep / "trials" / "2" / "best.safetensors", next(sources(calibrated).rglob("*.jpg"))
    data = path.read_bytes()
    about: About = read_about(data, "weights")
    from job.training.weights import parse_weights

    def rewrite(**changed: object) -> None:
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])["__metadata__"]["trialgrid"]
        path.write_bytes(weights_to_bytes(parse_weights(data, "best.safetensors"), {**json.loads(header), **changed}))

    rewrite(precision="fp16")
    predictor = load_predictor(open_folder(str(sweep)), "2")
    assert predictor.machine.precision == "fp32" and predictor.machine.device == torch.device("cpu")
    assert predictor.temperature == about.temperature and next(predictor.predict(images_named([str(image)]))).label
    for temperature in (0.0, -1.0, 1e9, "warm"):
        rewrite(temperature=temperature)
        done = job("predict", sweep, image, "--trial", "2")
        assert done.code == 78 and "not the best weights of a trial" in done.err and "Traceback" not in done.err


def test_damaged_or_missing_predictions_leave_the_answers_without_sets(calibrated: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(calibrated, tmp_path / "sweep"))
    path, image = sweep / "trials" / "2" / "predictions.csv", next(sources(calibrated).rglob("*.jpg"))
    path.write_text("split,image\nval,x\n")
    done = job("predict", sweep, image, "--trial", "2")
    assert done.code == 0 and "no prediction sets: " in done.out and "no column label" in done.out, done
    path.unlink()
    done = job("predict", sweep, image, "--trial", "2")
    assert done.code == 0 and "no prediction sets: the trial has no " in done.out


def test_default_coverage_of_the_command_is_that_of_gather(calibrated: Path) -> None:
    image = next(sources(calibrated).rglob("*.jpg"))
    printed = json.loads(job("predict", calibrated, image, "--trial", "2", "--json").out)
    assert printed["sets"]["coverage"] == COVERAGE
