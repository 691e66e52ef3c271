"""A trial -> a folder that classifies images without this program, proven to answer as `job predict` does."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from job.errors import BadConfig, MissingInput
from job.folder.escape import for_terminal
from job.folder.layout import digest
from job.folder.storage import Folder, join

NEEDED = ("onnx", "onnxscript", "onnxruntime")
SUMS, SAMPLES = "SHA256SUMS", "samples/"
NAMES = ("model.onnx", "model.safetensors", "config.json", "labels.txt", "predict.py", "MODEL_CARD.md", "parity.json")


def refuse_without_extra() -> None:
    """Raise BadConfig, saying what to install, if a package of the extra `export` is missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise BadConfig(f"job export needs {', '.join(missing)}, which only the extra `export` of trialgrid brings: "
                        f"pip install {' '.join(missing)}")


def refuse_foreign(target: Folder) -> None:
    """Raise BadConfig if a folder holds something else than a bundle, or than what an interrupted export left."""
    try:
        for name in target.names():
            if name not in (*NAMES, SUMS) and not name.startswith(SAMPLES):
                raise BadConfig(f"{target.uri}: it holds {for_terminal(name)}, which is no file of a bundle; name a "
                                "new folder")
    except MissingInput:
        return


def export_bundle(sweep: Folder, target: Folder, trial: str = "", with_samples: bool = True,
                  say: Callable[[str], None] = print) -> str:
    """Write the bundle of a trial, by default of the one that `job predict` uses; return what it is, in a sentence.

    Everything is made and proven before anything is written. SHA256SUMS is written last: a folder without it is no
    bundle yet, and the same command completes it. Raises BadConfig for a target that holds something else or if
    packages are missing, and NotTheSame (70) if the proof fails.
    """
    refuse_without_extra()
    refuse_foreign(target)
    from job.results.bundle.card import model_card
    from job.results.bundle.model import config_file, onnx_file, weights_file
    from job.results.bundle.parity import about_parity, prove
    from job.results.bundle.winner import choose_winner

    winner = choose_winner(sweep, trial)
    for damage in winner.predictor.damaged:
        say(f"left out, because a file is damaged: {damage}")
    model = onnx_file(winner)
    found = prove(winner, sweep, model)
    samples = found.samples() if with_samples else {}
    parity = json.dumps(about_parity(winner, found, samples), indent=1) + "\n"
    labels = "".join(f"{for_terminal(name)}\n" for name in winner.about.classes)
    files = {"model.onnx": model, "model.safetensors": weights_file(winner), "config.json": config_file(winner),
             "labels.txt": labels.encode(), "predict.py": Path(__file__).with_name("predict.py").read_bytes(),
             "MODEL_CARD.md": model_card(winner, found, len(samples)), "parity.json": parity.encode(),
             **{name: item.proof.data for name, item in samples.items()}}
    publish(target, files)
    about = winner.about
    fold = f", trained without fold {about.trial.fold} of {about.trial.folds}" if about.trial.fold else ""
    return (f"bundle of trial {winner.name} ({about.trial.model}, {about.trial.image_size} px, {len(about.classes)} "
            f"classes{fold}); {found.told()}")


def publish(target: Folder, files: dict[str, bytes]) -> None:
    """Write a bundle, SHA256SUMS last; raises BadConfig if there is another one."""
    sums = "".join(f"{digest(data)}  {name}\n" for name, data in sorted(files.items())).encode()
    have = set(target.names())
    if SUMS in have and target.read(SUMS) != sums:
        raise BadConfig(f"{target.uri}: there is another bundle; name a new folder, or delete that one")
    if extra := sorted(have - set(files) - {SUMS}):
        raise BadConfig(f"{target.uri}: it holds {for_terminal(extra[0])}, which is no file of this bundle; name a new "
                        "folder, or delete that file")
    for name, data in files.items():
        target.write(name, data)
    if not target.write_once(SUMS, sums) and target.read(SUMS) != sums:
        raise BadConfig(f"{join(target.uri, SUMS)}: another export wrote its bundle there meanwhile; name a new folder")
