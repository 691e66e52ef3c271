"""A winner -> model.onnx, from pixels to calibrated probabilities, and the files that timm's users know."""

import io
import json
import math
import warnings
from contextlib import redirect_stdout
from typing import Any

import onnx
import safetensors.torch
import torch

from job.data.augment import MEAN, STD, mean_and_std
from job.errors import BadConfig, JobError
from job.models import MLP, MULTIPLES
from job.results.bundle.graph import OPSET, Graph, checked_model, tensor
from job.results.bundle.resize import resized_crop
from job.results.bundle.winner import Winner
from job.training.backbone import size_argument

# What a protobuf may hold, less the graph itself.
MOST_ONNX_BYTES = (2 << 30) - (16 << 20)


def onnx_file(winner: Winner) -> bytes:
    """Return model.onnx: `image`, uint8 RGB, height x width x 3, of any size -> `probabilities` and `logits` per class.

    The probabilities are calibrated by the temperature. The logits are there for a threshold: near 0 and 1
    probabilities round to the same number. Raises BadConfig for a model larger than such a file may be.
    """
    trial = winner.about.trial
    num_bytes = sum(value.numel() * 4 for value in winner.weights.values())
    if num_bytes > MOST_ONNX_BYTES:
        raise BadConfig(f"trial {winner.name}: its weights take {num_bytes:,} bytes, and an ONNX file holds 2 GiB; "
                        "export a smaller model")
    graph = Graph()
    crop_HWC = resized_crop(graph, "image", winner.about.short_side, winner.resize_side, trial.image_size)
    pixels_1CHW = graph("Unsqueeze", graph("Transpose", graph.cast(crop_HWC, "float"), perm=[2, 0, 1]), [0])
    mean, std = (item.numpy() for item in mean_and_std(torch.device("cpu")))
    logits_1K = graph.include(exported(winner), graph("Div", graph("Sub", pixels_1CHW, mean), std))
    logits_K = graph("Squeeze", logits_1K, [0])
    exact_K = graph("Softmax", graph("Div", graph.cast(logits_K, "double"), winner.temperature), axis=0)
    for name, value in (("probabilities", graph.cast(exact_K, "float")), ("logits", logits_K)):
        graph.nodes.append(onnx.helper.make_node("Identity", [value], [name]))
    num_classes = len(winner.about.classes)
    return checked_model(graph.closed("trialgrid", [tensor("image", "uint8", ["height", "width", 3])],
                                      [tensor(name, "float", [num_classes]) for name in ("probabilities", "logits")]),
                         {name: json.dumps(value) for name, value in properties(winner).items()})


def properties(winner: Winner) -> dict[str, Any]:
    """Return what the files say of the model besides its weights."""
    about = winner.about
    return {"trial": winner.name, "model": about.trial.model, "classes": about.classes,
            "image_size": about.trial.image_size, "resize_short_sides": sorted({about.short_side, winner.resize_side},
                                                                               reverse=True),
            "temperature": winner.temperature, "threshold": about.threshold, "threshold_margin": about.threshold_margin}


def exported(winner: Winner) -> onnx.ModelProto:
    """Return the model from normalised pixels to logits, by torch's exporter; its messages are not shown."""
    size = winner.about.trial.image_size
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(winner.model, (torch.zeros(1, 3, size, size),), dynamo=True, opset_version=OPSET,
                                    verbose=False, optimize=True)
    assert program
    found: onnx.ModelProto = program.model_proto
    if found.functions or {item.domain for item in found.opset_import} != {""}:
        raise JobError(f"the exporter of torch {torch.__version__} writes more than plain ONNX operators, which this "
                       "program does not expect; use torch 2.15")
    return found


def weights_file(winner: Winner) -> bytes:
    """Return model.safetensors: the weights under torchvision's names; those of a resnet are timm's too."""
    return bytes(safetensors.torch.save(winner.weights, {"format": "pt"}))


def config_file(winner: Winner) -> bytes:
    """Return config.json: timm's for a model that timm has, else torchvision's name and arguments, or the mlp's layers.

    A stem `small` is told as the layers that replace those of torchvision's model.
    """
    about, size = winner.about, winner.about.trial.image_size
    trial, model = about.trial, winner.model
    found: dict[str, Any] = {"architecture": trial.model, "num_classes": len(about.classes),
                             "label_names": about.classes}
    is_fixed = trial.model == MLP or trial.model in MULTIPLES
    pixels = {"input_size": [3, size, size], "fixed_input_size": is_fixed,
              "interpolation": "bilinear", "crop_pct": crop_share(size, winner.resize_side), "crop_mode": "center",
              "mean": MEAN, "std": STD, "num_classes": len(about.classes)}
    if winner.is_in_timm:
        num_features = model.get_submodule("fc").in_features
        found |= {"num_features": num_features, "global_pool": "avg",
                  "pretrained_cfg": {"tag": "trialgrid", **pixels, "pool_size": [math.ceil(size / 32)] * 2,
                                     "first_conv": "conv1", "classifier": "fc"}}
    elif trial.model == MLP:
        found |= {"pixels": pixels, "layers": {name: str(part) for name, part in model.named_children()}}
    else:
        replaced = ("conv1", "maxpool") if trial.stem == "small" else ()
        found |= {"library": "torchvision", "pixels": pixels,
                  "arguments": {"num_classes": len(about.classes), **size_argument(trial)},
                  "replaced_layers": {name: str(model.get_submodule(name)) for name in replaced}}
    return (json.dumps(found | {"trialgrid": properties(winner)}, indent=1) + "\n").encode()


def crop_share(image_size: int, side: int) -> float:
    """Return timm's crop_pct: timm resizes the short side to image_size / crop_pct, rounded down."""
    share = image_size / side
    return share if math.floor(image_size / share) == side else image_size / (side + 0.5)
