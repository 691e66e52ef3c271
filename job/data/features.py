"""Images as the features that a frozen backbone makes of them, in place of their pixels."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from job.data.augment import Draws
from job.data.batches import Batches


@dataclass(frozen=True, kw_only=True)
class Features(Batches):
    """The images of a pack, each as the features of its centre crop, which no augmentation changes.

    features_NF: one row per image, on the device. shown: the same images as pixels, for what shows them.
    """

    features_NF: Tensor
    shown: Batches

    def inputs(self, indices: Tensor) -> Tensor:
        """Return features_NF of these images, on the device."""
        return self.features_NF[indices.to(self.device)]

    def centered(self, indices: Tensor) -> Tensor:
        """Return images_NCHW, as `Batches` does."""
        return self.shown.centered(indices)

    def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
        """Return features_NF of these images; nothing is drawn for them."""
        return self.inputs(indices)

    def fed(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return what a GPU takes a batch from: all features on the GPU, and images_N12 as `Batches.fed` lays it out.

        Of images_N12 only the label is read, and in place of the first pixel the number of the image.
        """
        images_N12 = torch.zeros(len(indices), 12, dtype=torch.float64)
        images_N12[:, 6], images_N12[:, 9] = indices, self.labels_N[indices]
        return self.features_NF, images_N12.pin_memory() if self.device.type == "cuda" else images_N12

    def rendered(self, pixels_P3: Tensor, images_N12: Tensor, draws: Draws, size: int = 0) -> tuple[Tensor, Tensor]:
        """Return features_NF and labels_N, on the device of both tensors; pixels_P3 is what `fed` returned first."""
        return pixels_P3[images_N12[:, 6].long()], images_N12[:, 9].long()


def as_features(batches: Batches, features_NF: Tensor) -> Features:
    """Return the images of `batches` as these features, which move to its device."""
    values = {spec.name: getattr(batches, spec.name) for spec in dataclasses.fields(Batches)}
    features_NF = features_NF.to(batches.device)
    return Features(**values | {"resident_P3": features_NF}, features_NF=features_NF, shown=batches)
