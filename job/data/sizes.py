"""Sizes of images on their way from file to model."""

# The first study resizes the short side to 256 and crops 224 pixels; other sizes keep this ratio.
RESIZE_OVER_CROP = 256 / 224


def resize_side(image_size: int) -> int:
    """Return the short side to which validation resizes an image before it crops image_size: 256 for 224."""
    return round(image_size * RESIZE_OVER_CROP)
