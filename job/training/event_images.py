"""What TensorBoard shows of the best epoch: the confusion matrix and the worst mistakes as images, and the PR curve."""

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import pr_curve

from job.data.batches import Batches
from job.data.sheet import font, shortened, to_pixels
from job.training.evaluate import Evaluation, confusion_matrix

# The image of a confusion matrix shows as many classes; its cells are squares of so many pixels.
MOST_CLASSES = 20
CELL_PIXELS = 44
# The card shows as many mistakes, each as a square thumbnail with two lines of text.
MOST_MISTAKES = 12
NUM_COLUMNS = 4
THUMB_PIXELS = 150
LINE_PIXELS = 17
GAP_PIXELS = 8
INK, FAINT, BLUE = "#1f2933", "#52606d", (31, 95, 168)


def best_epoch_summaries(evaluations: dict[str, Evaluation], batches: Batches, classes: Sequence[str]) -> list[Summary]:
    """Return, for each split that was evaluated, its confusion matrix, its mistakes and, for two classes, its PR curve.

    evaluations: split -> the evaluation of the best epoch's weights.
    """
    found = []
    for split, evaluation in evaluations.items():
        predicted_N = evaluation.logits_NK.argmax(1)
        confusion_KK = confusion_matrix(predicted_N, evaluation.labels_N, len(classes))
        found.append(image_summary(f"{split}/confusion_matrix", draw_confusion(confusion_KK, classes), "PNG"))
        if card := draw_mistakes(evaluation, batches, split, classes):
            found.append(image_summary(f"{split}/mistakes", card, "JPEG"))
        if len(classes) == 2:
            positive_N = evaluation.logits_NK.double().softmax(1)[:, 1].numpy()
            found.append(pr_curve(f"{split}/precision_recall", evaluation.labels_N.numpy() == 1, positive_N))
    return found


def image_summary(tag: str, image: Image.Image, kind: str) -> Summary:
    """Return an image for TensorBoard, as a PNG or a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    shown = Summary.Image(encoded_image_string=buffer.getvalue(), width=image.width, height=image.height, colorspace=3)
    return Summary(value=[Summary.Value(tag=tag, image=shown)])


def draw_confusion(confusion_KK: Tensor, classes: Sequence[str]) -> Image.Image:
    """Return the confusion matrix as an image: counts on shades of blue, a row per true class.

    Of more than MOST_CLASSES classes it shows those with the most errors.
    """
    errors_K = confusion_KK.sum(0) + confusion_KK.sum(1) - 2 * confusion_KK.diagonal()
    shown = errors_K.argsort(descending=True, stable=True)[:MOST_CLASSES].sort().values.tolist()
    names = [shortened(classes[index], 130) for index in shown]
    left = 30 + max(int(font().getlength(name)) for name in names)
    top = 34 + max(20, *(int(font().getlength(name)) for name in names))
    image = Image.new("RGB", (max(340, left + CELL_PIXELS * len(shown) + 20), top + CELL_PIXELS * len(shown) + 20),
                      "white")
    pen = ImageDraw.Draw(image)
    title = "rows: true class, columns: predicted class"
    cut = f"; the {len(shown)} of {len(classes)} classes with the most errors" if len(shown) < len(classes) else ""
    pen.text((10, 8), title + cut, FAINT, font())
    for place, (index, name) in enumerate(zip(shown, names, strict=True)):
        middle = place * CELL_PIXELS + CELL_PIXELS // 2
        pen.text((left - 8, top + middle), name, INK, font(), anchor="rm")
        upright(image, name, left + middle, top - 6)
        num_images = max(1, int(confusion_KK[index].sum()))
        for column, other in enumerate(shown):
            draw_cell(pen, left + column * CELL_PIXELS, top + place * CELL_PIXELS, int(confusion_KK[index, other]),
                      num_images)
    return image


def draw_cell(pen: ImageDraw.ImageDraw, x: int, y: int, count: int, num_images: int) -> None:
    """Draw one cell: the darker, the larger the count's share of the images of its true class."""
    share = count / num_images
    colour = tuple(round(255 + (part - 255) * share) for part in BLUE)
    pen.rectangle((x, y, x + CELL_PIXELS - 2, y + CELL_PIXELS - 2), fill=colour, outline="#cbd2d9")
    text = str(count) if count < 100_000 else f"{count / 1000:.0f}k"
    pen.text((x + CELL_PIXELS / 2, y + CELL_PIXELS / 2), text, "white" if share > 0.55 else INK, font(), anchor="mm")


def upright(image: Image.Image, text: str, x: int, bottom: int) -> None:
    """Write a text from bottom to top, centred on x."""
    line = Image.new("RGB", (max(1, int(font().getlength(text)) + 2), LINE_PIXELS), "white")
    ImageDraw.Draw(line).text((0, LINE_PIXELS // 2), text, INK, font(), anchor="lm")
    turned = line.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (x - LINE_PIXELS // 2, bottom - turned.height))


def draw_mistakes(evaluation: Evaluation, batches: Batches, split: str, classes: Sequence[str]) -> Image.Image | None:
    """Return the most confident mistakes as thumbnails with true and predicted class; None if there is no mistake."""
    # As softmax would say, but without another table of a million images by a thousand classes.
    largest_N, predicted_N = evaluation.logits_NK.max(1)
    sure_N = (largest_N.double() - evaluation.logits_NK.logsumexp(1).double()).exp()
    wrong = (predicted_N != evaluation.labels_N).nonzero().flatten()
    wrong = wrong[sure_N[wrong].argsort(descending=True, stable=True)][:MOST_MISTAKES]
    if not len(wrong):
        return None
    with torch.inference_mode():
        pixels_NHWC = to_pixels(batches.centered(batches.indices[split][wrong]).cpu())
    step, height = THUMB_PIXELS + GAP_PIXELS, THUMB_PIXELS + 3 * LINE_PIXELS
    num_rows = -(-len(wrong) // NUM_COLUMNS)
    card = Image.new("RGB", (step * NUM_COLUMNS + GAP_PIXELS, num_rows * height + GAP_PIXELS), "white")
    pen = ImageDraw.Draw(card)
    for place, (index, pixels_HWC) in enumerate(zip(wrong.tolist(), pixels_NHWC, strict=True)):
        x, y = GAP_PIXELS + step * (place % NUM_COLUMNS), GAP_PIXELS + height * (place // NUM_COLUMNS)
        thumb = Image.fromarray(pixels_HWC.numpy()).resize((THUMB_PIXELS, THUMB_PIXELS), Image.Resampling.BICUBIC)
        card.paste(thumb, (x, y))
        sure = f" {sure_N[index]:.2f}"
        said = shortened(classes[int(predicted_N[index])], THUMB_PIXELS - 45 - int(font().getlength(sure)))
        true = shortened(classes[int(evaluation.labels_N[index])], THUMB_PIXELS - 30)
        pen.text((x, y + THUMB_PIXELS + 2), f"is {true}", INK, font())
        pen.text((x, y + THUMB_PIXELS + 2 + LINE_PIXELS), f"called {said}{sure}", FAINT, font())
    return card
