"""What a person may ask of the Jobs of a sweep."""

import re
from dataclasses import dataclass
from fractions import Fraction

from job.trial import check, option

SUFFIXES = {"m": Fraction(1, 1000), "": Fraction(1)} | {
    letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", 1)} | {
    f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What the Jobs of a sweep have in common, besides SWEEP."""

    image: str = option("", "the program's image, best by digest: registry/trialgrid@sha256:...")
    namespace: str = option("", "of the Jobs; left out, kubectl's own")
    name: str = option("", "the sweep's name in labels and Job names; left out, the last part of SWEEP")
    images: str = option("", "images, path or s3:// URI: whichever Job comes first makes the pack from them")
    gpu_resource: str = option("nvidia.com/gpu", "the resource that a Job asks for one of; none: train on the CPU")
    runtime_class: str = option("", "the RuntimeClass of the pods, where GPUs need one, such as nvidia on k3s")
    cpu: str = option("3", "processors that a Job asks for")
    memory: str = option("12Gi", "memory that a Job asks for and may use, /dev/shm included")
    tmp: str = option("10Gi", "local disk that a Job asks for and may use under /tmp, where a pack from S3 is kept")
    deadline: int = option(7 * 24 * 3600, "seconds after which a Job is ended for good, its wait for a machine included", least=60)

    def __post_init__(self) -> None:
        check(self)
        if not re.fullmatch(r"\S+", self.image):
            raise ValueError(f"image is {self.image!r}; a reference such as registry/trialgrid@sha256:... is needed")
        for name in ("namespace", "name", "runtime_class"):
            if getattr(self, name) and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; small letters, digits and '-' are allowed, 63 at most")
        if self.gpu_resource != "none" and not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", self.gpu_resource):
            raise ValueError(f"gpu_resource is {self.gpu_resource!r}; a name such as nvidia.com/gpu, or none, is needed")
        for name in ("cpu", "memory", "tmp"):
            try:
                canonical(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} is {getattr(self, name)!r}; {error}") from None


def canonical(quantity: str) -> str:
    """A Kubernetes quantity as the API server writes it back, so that a Job applied twice is unchanged.

    That is: no fraction, and the largest suffix of its kind, binary or decimal (apimachinery, resource.Quantity).
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", quantity)
    if not parts or parts[2] not in SUFFIXES:
        raise ValueError("a quantity such as 4, 500m or 16Gi is needed")
    amount = Fraction(parts[1]) * SUFFIXES[parts[2]]
    kind = [suffix for suffix in SUFFIXES if suffix.endswith("i") == parts[2].endswith("i")]
    whole = [suffix for suffix in kind if amount and (amount / SUFFIXES[suffix]).denominator == 1]
    if not whole:
        raise ValueError("more than nothing, and whole thousandths or whole KiB, are needed")
    best = max(whole, key=lambda suffix: SUFFIXES[suffix])
    return f"{amount / SUFFIXES[best]}{best}"
