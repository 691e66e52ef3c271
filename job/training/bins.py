"""How many bins a calibration error and a reliability diagram have; needs no torch."""

import math


def num_bins(num_images: int) -> int:
    """Return the cube root of the number of images, rounded: fifteen bins mislead on few images."""
    return max(1, round(math.cbrt(num_images)))
