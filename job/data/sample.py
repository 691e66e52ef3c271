"""Draws product images (phones and other appliances) for demonstrations: all different, some of them hard."""

import io
import math
import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw

# Each class's share of the images; the first study set phones against the rest, 65 to 35.
SHARES = {"phone": 0.4, "tablet": 0.15, "laptop": 0.15, "washing_machine": 0.15, "dishwasher": 0.15}
CANVAS = 480


def draw_images(num_images: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `class/name.jpg` and the JPEG bytes of each image; the same seed and number give the same images."""
    for label, share in SHARES.items():
        for number in range(max(1, round(num_images * share))):
            yield f"{label}/{label}-{number:04d}.jpg", draw_image(label, random.Random(f"{seed}/{label}/{number}"))


def draw_image(label: str, rng: random.Random) -> bytes:
    """Return one JPEG: a background, clutter, the rotated product, sometimes clutter in front of it, then light."""
    width, height = rng.choice([(320, 240), (240, 320), (280, 280), (360, 240)])
    scene = background(rng, CANVAS, CANVAS)
    clutter(rng, scene, rng.randint(0, 3))
    product = Image.new("RGBA", (CANVAS, CANVAS))
    PRODUCTS[label](rng, ImageDraw.Draw(product))
    hard = rng.random() < 0.2
    scale = rng.uniform(0.4, 0.65) if hard else rng.uniform(0.75, 1.05)
    product = turn(rng, product, scale, spread=60 if hard else 14)
    scene.paste(product, (rng.randint(-45, 45), rng.randint(-35, 35)), product)
    if hard:
        clutter(rng, scene, rng.randint(2, 4))
    image = scene.resize((width, height), Image.Resampling.BICUBIC)
    image = light(rng, image, hard)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(35, 75) if hard else rng.randint(75, 92))
    return buffer.getvalue()


def colour(rng: random.Random, low: int = 0, high: int = 255) -> Colour:
    """Return a random colour with channels between two values."""
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def grey(rng: random.Random, low: int, high: int) -> Colour:
    """Return a nearly grey colour, for the casing of an appliance."""
    value = rng.randint(low, high)
    return tuple(max(0, min(255, value + rng.randint(-10, 10))) for _ in range(3))  # type: ignore[return-value]


def background(rng: random.Random, width: int, height: int) -> Image.Image:
    """Return a gradient of two colours, sometimes with a floor."""
    first = colour(rng, 110, 240)
    second = grey(rng, 90, 230) if rng.random() < 0.6 else colour(rng, 90, 240)
    mask = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize((width, height))
    scene = Image.composite(Image.new("RGB", (width, height), first), Image.new("RGB", (width, height), second), mask)
    if rng.random() < 0.4:
        ImageDraw.Draw(scene).rectangle((0, height * rng.uniform(0.5, 0.8), width, height), fill=colour(rng, 40, 200))
    return scene


def clutter(rng: random.Random, scene: Image.Image, count: int) -> None:
    """Draw shapes that are not products: boxes, balls, cables."""
    draw = ImageDraw.Draw(scene)
    for _ in range(count):
        x, y, size = rng.randint(0, CANVAS), rng.randint(0, CANVAS), rng.randint(20, 110)
        box = (x, y, x + size, y + int(size * rng.uniform(0.4, 1.6)))
        kind = rng.randint(0, 3)
        if kind == 0:
            draw.ellipse(box, fill=colour(rng))
        elif kind == 1:
            draw.rounded_rectangle(box, rng.randint(0, 15), fill=colour(rng), outline=colour(rng),
                                   width=rng.randint(0, 4))
        elif kind == 2:
            points = [(rng.randint(0, CANVAS), rng.randint(0, CANVAS)) for _ in range(4)]
            draw.line(points, fill=colour(rng), width=rng.randint(2, 7))
        else:
            draw.arc(box, rng.randint(0, 180), rng.randint(180, 360), fill=colour(rng), width=rng.randint(3, 12))


def turn(rng: random.Random, product: Image.Image, scale: float, spread: float) -> Image.Image:
    """Rotate, scale and shear a product, as if seen from another place."""
    angle = math.radians(rng.gauss(0, spread / 2))
    lean_x, lean_y = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)
    squeeze = rng.uniform(0.75, 1.0)
    middle = CANVAS / 2
    a, b = math.cos(angle) / scale / squeeze, math.sin(angle) / scale + lean_x
    d, e = -math.sin(angle) / scale / squeeze + lean_y, math.cos(angle) / scale
    c, f = middle - a * middle - b * middle, middle - d * middle - e * middle
    return product.transform((CANVAS, CANVAS), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)


def light(rng: random.Random, image: Image.Image, hard: bool) -> Image.Image:
    """Change brightness, contrast, colour, focus and grain."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.35, 1.3) if hard else rng.uniform(0.75, 1.2))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.2))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.2, 1.4))
    if hard and rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
    noise = Image.effect_noise(image.size, rng.uniform(5, 35)).convert("RGB")
    return Image.blend(image, noise, rng.uniform(0.02, 0.15 if hard else 0.06))


def screen(rng: random.Random, draw: Draw, box: tuple[float, float, float, float]) -> None:
    """Draw a display: off, or with tiles or lines of text."""
    left, top, right, bottom = box
    draw.rectangle(box, fill=grey(rng, 5, 40) if rng.random() < 0.4 else colour(rng, 20, 220))
    if rng.random() < 0.6:
        columns, rows = rng.randint(2, 5), rng.randint(3, 7)
        dx, dy = (right - left) / columns, (bottom - top) / rows
        for i in range(columns * rows):
            if rng.random() < 0.6:
                x, y = left + dx * (i % columns), top + dy * (i // columns)
                draw.rounded_rectangle((x + dx * 0.2, y + dy * 0.2, x + dx * 0.8, y + dy * 0.7), 4, fill=colour(rng))


def handheld(rng: random.Random, draw: Draw, width: float, height: float, button: bool) -> None:
    """Draw a flat case with a screen: a phone or a tablet, which differ in aspect ratio, frame and camera."""
    left, top = (CANVAS - width) / 2, (CANVAS - height) / 2
    box = (left, top, left + width, top + height)
    radius = width * rng.uniform(0.05, 0.16)
    draw.rounded_rectangle(box, radius, fill=grey(rng, 10, 245), outline=grey(rng, 40, 200), width=3)
    frame = width * (rng.uniform(0.03, 0.07) if not button else rng.uniform(0.06, 0.1))
    if rng.random() < 0.25 and not button:
        # The back of a phone: a camera and no screen.
        x, y, size = left + width * 0.1, top + height * 0.05, width * 0.35
        draw.rounded_rectangle((x, y, x + size, y + size), 12, fill=grey(rng, 20, 90))
        for i in range(rng.randint(1, 3)):
            cx, cy = x + size * (0.3 + 0.4 * (i % 2)), y + size * (0.3 + 0.4 * (i // 2))
            draw.ellipse((cx - 11, cy - 11, cx + 11, cy + 11), fill=(10, 10, 15), outline=(120, 120, 130))
        return
    below = height * 0.1 if button or rng.random() < 0.3 else frame
    screen(rng, draw, (left + frame, top + frame * 1.6, left + width - frame, top + height - below))
    if below > frame:
        cx, cy, r = left + width / 2, top + height - below / 2, below * 0.3
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=grey(rng, 80, 200), width=2)


def phone(rng: random.Random, draw: Draw) -> None:
    """Draw a phone, about twice as high as wide."""
    height = rng.uniform(330, 430)
    handheld(rng, draw, height / rng.uniform(1.8, 2.2), height, button=False)


def tablet(rng: random.Random, draw: Draw) -> None:
    """Draw a tablet, about 4 to 3, upright or lying, with a wider frame."""
    height = rng.uniform(330, 420)
    width = height / rng.uniform(1.3, 1.6)
    handheld(rng, draw, *((width, height) if rng.random() < 0.6 else (height, width)), button=rng.random() < 0.6)


def laptop(rng: random.Random, draw: Draw) -> None:
    """Draw a laptop: a lid with a screen, and a base with keys that widens towards the viewer."""
    width, case = rng.uniform(280, 380), grey(rng, 20, 220)
    left, top, lid = (CANVAS - width) / 2, rng.uniform(60, 110), width * rng.uniform(0.55, 0.68)
    draw.rounded_rectangle((left, top, left + width, top + lid), 8, fill=case)
    screen(rng, draw, (left + 12, top + 12, left + width - 12, top + lid - 14))
    wide, deep, y = width * rng.uniform(0.06, 0.16), width * rng.uniform(0.22, 0.38), top + lid
    draw.polygon([(left, y), (left + width, y), (left + width + wide, y + deep), (left - wide, y + deep)], fill=case)
    for row in range(4):
        t = 0.12 + 0.15 * row
        x0, x1, yy = left + 14 - wide * t, left + width - 14 + wide * t, y + deep * t
        for k in range(11):
            x = x0 + (x1 - x0) * k / 11
            draw.rectangle((x, yy, x + (x1 - x0) / 14, yy + deep * 0.09), fill=grey(rng, 10, 90))
    draw.rectangle((CANVAS / 2 - 35, y + deep * 0.75, CANVAS / 2 + 35, y + deep * 0.93), fill=grey(rng, 60, 200))


def casing(rng: random.Random, draw: Draw) -> tuple[float, float, float, float]:
    """Draw the body of a large appliance with its control panel; return left, top, width, height below the panel."""
    width, height = rng.uniform(250, 310), rng.uniform(320, 400)
    left, top, panel = (CANVAS - width) / 2, (CANVAS - height) / 2, rng.uniform(40, 60)
    body = (left, top, left + width, top + height)
    draw.rounded_rectangle(body, 6, fill=grey(rng, 120, 250), outline=grey(rng, 60, 150), width=3)
    draw.line((left, top + panel, left + width, top + panel), fill=grey(rng, 60, 150), width=3)
    for i in range(rng.randint(2, 6)):
        x, y = left + width * (0.45 + 0.09 * i), top + panel / 2
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour(rng))
    draw.rectangle((left + 15, top + 12, left + width * 0.35, top + panel - 12), fill=grey(rng, 10, 120))
    return left, top + panel, width, height - panel


def washing_machine(rng: random.Random, draw: Draw) -> None:
    """Draw a casing with a round door."""
    left, top, width, height = casing(rng, draw)
    cx, cy, r = left + width / 2, top + height * rng.uniform(0.42, 0.55), min(width, height) * rng.uniform(0.3, 0.42)
    draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=grey(rng, 90, 230), outline=grey(rng, 40, 120), width=4)
    r *= rng.uniform(0.65, 0.8)
    draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour(rng, 10, 120))
    draw.chord((cx - r, cy - r, cx + r, cy + r), 20, 160, fill=colour(rng, 30, 220))


def dishwasher(rng: random.Random, draw: Draw) -> None:
    """Draw a casing with a flat door and a long handle; sometimes open, with a rack."""
    left, top, width, height = casing(rng, draw)
    y = top + height * rng.uniform(0.04, 0.1)
    draw.rounded_rectangle((left + width * 0.15, y, left + width * 0.85, y + 14), 7, fill=grey(rng, 30, 200))
    draw.line((left, top + height * 0.9, left + width, top + height * 0.9), fill=grey(rng, 40, 120), width=4)
    if rng.random() < 0.35:
        inner = (left + width * 0.1, top + height * 0.2, left + width * 0.9, top + height * 0.85)
        draw.rectangle(inner, fill=grey(rng, 30, 90))
        for i in range(7):
            x = inner[0] + (inner[2] - inner[0]) * (i + 0.5) / 7
            draw.line((x, inner[1] + 10, x, inner[3] - 10), fill=grey(rng, 150, 240), width=3)


PRODUCTS: dict[str, Callable[[random.Random, Draw], None]] = {
    "phone": phone, "tablet": tablet, "laptop": laptop, "washing_machine": washing_machine, "dishwasher": dishwasher}
