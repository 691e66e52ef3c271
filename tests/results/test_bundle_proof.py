"""A bundle proves itself: alone, without torch and this program; and what is wrong, changed or hostile is found."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from job.data.load import read_lines
from job.data.pack import Passport, read_passport
from job.data.table import Packed
from job.folder.escape import for_markdown
from job.folder.storage import open_folder
from job.results.bundle.export import export_bundle
from job.results.bundle.images import Sources, proofs
from job.results.bundle.model import onnx_file
from job.results.bundle.parity import NotTheSame, open_session, prove
from job.results.bundle.winner import choose_winner
from support import draw, environment, job

pytestmark = pytest.mark.slow
PACKAGES = ("numpy", "pillow", "onnxruntime")


@pytest.fixture(scope="module")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the finished sweep; no test may change it."""
    out = tmp_path_factory.mktemp("bundles") / "first"
    told = export_bundle(open_folder(str(finished)), open_folder(str(out)), "1")
    assert "as job predict does in fp32" in told
    return out


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with numpy, Pillow and onnxruntime alone; where they cannot be installed the test is skipped."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    done = subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *wanted], capture_output=True, text=True,
                          check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"{', '.join(wanted)} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return folder / "bin" / "python"


def alone(python: Path, folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a bundle's predict.py by a Python that sees no other package."""
    return subprocess.run([str(python), "-I", str(folder / "predict.py"), *map(str, args)], capture_output=True,
                          text=True, check=False, timeout=300, env=environment())


def test_bundle_checks_and_answers_in_a_python_without_torch_and_this_project(bare_python: Path, bundle: Path,
                                                                              tmp_path: Path) -> None:
    for name in ("torch", "job", "onnx"):
        found = subprocess.run([str(bare_python), "-I", "-c", f"import {name}"], capture_output=True, check=False)
        assert b"ModuleNotFoundError" in found.stderr
    assert len((bundle / "predict.py").read_text().splitlines()) <= 40
    done = alone(bare_python, bundle, "--check")
    assert done.returncode == 0 and "checked: 14 files, the answers to 7 images" in done.stdout, done.stderr
    draw(tmp_path / "a.jpg", "disc", 1, (90, 200))
    exif = Image.Exif()
    exif[0x0112] = 5
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "b.jpg", exif=exif)
        image.convert("L").save(tmp_path / "c.png")
    paths = sorted(tmp_path.iterdir())
    here = alone(Path(sys.executable), bundle, *paths)
    assert here.stdout.count("\n") == 3 and alone(bare_python, bundle, *paths).stdout == here.stdout


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "labels.txt", "parity.json", "MODEL_CARD.md",
                                  "config.json", "samples/03.jpg", "predict.py"])
def test_check_names_the_file_in_which_one_byte_is_changed(bundle: Path, tmp_path: Path, name: str) -> None:
    for path in bundle.rglob("*.*"):
        copy = tmp_path / path.relative_to(bundle)
        copy.parent.mkdir(exist_ok=True)
        os.link(path, copy)
    (tmp_path / "SHA256SUMS").write_bytes((bundle / "SHA256SUMS").read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    # A letter of predict.py's first line, so that it still runs.
    data[20 if name == "predict.py" else len(data) // 2] ^= 1
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(data)
    done = alone(Path(sys.executable), tmp_path, "--check")
    assert done.returncode == 1 and done.stderr == f"{name}: not the file that SHA256SUMS names\n"


def test_answers_of_another_model_are_refused(finished: Path, bundle: Path) -> None:
    winner = choose_winner(open_folder(str(finished)), "1")
    with torch.no_grad():
        winner.model.get_parameter("fc.bias").add_(torch.tensor([0.5, 0.0]))
    with pytest.raises(NotTheSame, match="no bundle was written") as failure:
        prove(winner, open_folder(str(finished)), (bundle / "model.onnx").read_bytes())
    assert failure.value.exit_code == 70


def test_model_that_answers_no_numbers_leaves_no_bundle(spare_sweep: Path, tmp_path: Path) -> None:
    path = spare_sweep / "trials" / "1" / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        about, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights["fc.bias"][0] = float("nan")
    save_file(weights, path, about)
    done = job("export", spare_sweep, tmp_path / "out", "--trial", "1")
    assert done.code == 70 and "no bundle was written" in done.err and not (tmp_path / "out").exists()


def test_temperature_is_in_the_graph(finished: Path) -> None:
    winner = replace(choose_winner(open_folder(str(finished)), "1"), temperature=2.5)
    image_HWC = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    model = onnx_file(winner)
    shares, logits = open_session(model).run(["probabilities", "logits"], {"image": image_HWC})
    assert np.allclose(shares, torch.from_numpy(logits).double().div(2.5).softmax(0), atol=1e-7)
    assert prove(winner, open_folder(str(finished)), model).difference < 1e-5


def test_names_from_outside_are_no_markup_in_a_model_card() -> None:
    assert for_markdown("a|b\n# <x> [y](z)") == r"a\|b\\n\# \<x\> \[y\](z)"


def packed(sweep: Path) -> tuple[Passport, list[Packed]]:
    passport = read_passport(open_folder(str(sweep)))
    assert passport
    return passport, read_lines(open_folder(str(sweep)), passport)


def test_pixels_of_the_pack_stand_in_for_a_source_that_is_gone_or_changed(finished: Path, tmp_path: Path) -> None:
    passport, lines = packed(finished)
    folder = open_folder(str(finished))
    changed = next(line for line in lines if line.split == "val")
    (tmp_path / changed.image).parent.mkdir()
    (tmp_path / changed.image).write_bytes(b"another file")
    for source in (str(tmp_path / "gone"), str(tmp_path), "s3://", "ftp://no"):
        found = list(proofs(folder, replace(passport, source=source)))
        assert len(found) == 7 and not any(item.is_from_source for item in found)
        assert all(item.data.startswith(b"\x89PNG") for item in found)
    winner = replace(choose_winner(folder, "1"), passport=replace(passport, source="/no/such"))
    parity = prove(winner, folder, onnx_file(winner))
    assert parity.difference < 1e-5 and "7 from the pack, because the source does not have them" in parity.told()


@pytest.mark.parametrize(("source", "image"), [("/dev", "zero"), ("FOLDER", "pipe"), ("FOLDER", "../secret"),
                                               ("FOLDER", "secret"), ("FOLDER/in", "/FOLDER/secret"), ("FOLDER", "in")])
def test_no_other_file_of_this_machine_gets_into_a_bundle(finished: Path, tmp_path: Path, source: str,
                                                          image: str) -> None:
    """A passport may name any folder as its source."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    passport, lines = packed(finished)
    source, image = (text.replace("FOLDER", str(tmp_path).lstrip("/")) for text in (source, image))
    uri = source if source == "/dev" else f"/{source}"
    sources = Sources(open_folder(str(finished)), replace(passport, source=uri), lines)
    assert sources.file(replace(lines[0], image=image)) is None
