"""The options of a sweep's Kubernetes Jobs."""

import re
from dataclasses import dataclass
from fractions import Fraction

from job.trial import check, option, quoted

SUFFIXES = {"m": Fraction(1, 1000), "": Fraction(1)} | {
    letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", 1)} | {
    f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)}

# The server keeps a quantity in 63 bits.
MOST_AMOUNT = Fraction(2) ** 63
MOST_DIGITS = 40


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What all Jobs of a sweep have in common, besides SWEEP."""

    image: str = option("", "container image of this program, preferably by digest: registry/trialgrid@sha256:...")
    namespace: str = option("", "namespace of the Jobs; default: kubectl's current one")
    name: str = option("", "name of the sweep in labels and Job names; default: the last part of SWEEP")
    images: str = option("", "s3:// URI of the images; the first Job to start makes the pack from them")
    gpu_resource: str = option("nvidia.com/gpu", "resource of which each Job requests 1; none: train on the CPU")
    runtime_class: str = option("", "RuntimeClass of the pods, if GPUs need one (nvidia on k3s)")
    cpu: str = option("3", "processors that each Job requests")
    memory: str = option("12Gi", "memory that each Job requests and may use, /dev/shm included")
    tmp: str = option("10Gi", "local disk that each Job requests and may use in /tmp, where it keeps a pack from S3")
    cpu_limit: str = option("", "processors that each Job may use, if a ResourceQuota asks for such a limit; default: "
                            "no limit")
    disk_limit: str = option("", "local disk that each Job may use, logs included, if a ResourceQuota asks for such a "
                             "limit; default: none but the one of /tmp")
    deadline: int = option(7 * 24 * 3600, "seconds after which a Job is ended for good, its wait for a node included",
                           least=60, most=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        if not re.fullmatch(r"\S+", self.image):
            raise ValueError(f"image is {self.image!r}; use a reference such as registry/trialgrid@sha256:...")
        for name in ("namespace", "name", "runtime_class"):
            value = getattr(self, name)
            if value and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
                raise ValueError(f"{name} is {value!r}; use at most 63 lower-case letters, digits and '-', "
                                 "with a letter or digit at both ends")
        if self.gpu_resource != "none" and not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", self.gpu_resource):
            raise ValueError(f"gpu_resource is {self.gpu_resource!r}; use a name such as nvidia.com/gpu, or none")
        given = [name for name in ("cpu_limit", "disk_limit") if getattr(self, name)]
        for name in ("cpu", "memory", "tmp", *given):
            try:
                canonical(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} is {quoted(getattr(self, name))}; {error}") from None
        for limit in given:
            request = {"cpu_limit": "cpu", "disk_limit": "tmp"}[limit]
            text, least = getattr(self, limit), getattr(self, request)
            if amount_of(text) < amount_of(least):
                raise ValueError(f"{limit} is {text}, less than the {least} that --{request} requests; raise it, "
                                 "or lower the request")


def amount_of(quantity: str) -> Fraction:
    """Return the number that a Kubernetes quantity means; raises ValueError if it is none."""
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", quantity)
    if not parts or parts[2] not in SUFFIXES or len(quantity) > MOST_DIGITS:
        raise ValueError("use a quantity such as 4, 500m or 16Gi")
    return Fraction(parts[1]) * SUFFIXES[parts[2]]


def canonical(quantity: str) -> str:
    """Return a Kubernetes quantity as the API server writes it back, so that a Job applied twice is unchanged.

    That form has no fraction and the largest suffix of its kind, binary or decimal (apimachinery, resource.Quantity).
    Raises ValueError if `quantity` is not one, is 0, is finer than a thousandth (decimal) or a KiB (binary), or is more
    than the server can write.
    """
    amount = amount_of(quantity)
    is_binary = quantity.endswith("i")
    kind = [suffix for suffix in SUFFIXES if suffix.endswith("i") == is_binary]
    whole = [suffix for suffix in kind if amount and (amount / SUFFIXES[suffix]).denominator == 1]
    if not whole:
        raise ValueError("use more than 0, in whole thousandths or whole KiB")
    if amount >= MOST_AMOUNT:
        raise ValueError("use less than 8Ei")
    best = max(whole, key=lambda suffix: SUFFIXES[suffix])
    return f"{amount / SUFFIXES[best]}{best}"
