"""The README next to exported models: the class names, and how to load and run each model.

To add a format: a row in `INSTALLS`, `IMPORTS`, `LOADING` and `RECORDS`. A test runs every snippet as written.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from wisesr_cli.display.grid import Grid, markdown_text, numbers, percent, texts, to_markdown
from wisesr_cli.exporting.metadata import PACKED_LABELS, channels_text
from wisesr_cli.exporting.resizing import Nearness
from wisesr_cli.images.preparation import RGB, Preparation, range_text
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo
from wisesr_cli.model_files.saving import OLDEST_KERAS
from wisesr_cli.results.models import ExportedModel
from wisesr_cli.run.names import LABELS, THRESHOLDS

INSTALLS = {
    "keras": "pip install keras tensorflow pillow",
    "onnx": "pip install onnxruntime pillow",
    "litert": "pip install ai-edge-litert pillow",
    "saved_model": "pip install tensorflow pillow",
}
IMPORTS = {
    "keras": "import keras",
    "onnx": "import onnxruntime",
    "litert": "from ai_edge_litert.interpreter import Interpreter",
    "saved_model": "import tensorflow as tf",
}
LOADING = {
    "keras": """\
model = keras.models.load_model("$file")
logits = np.asarray(model(pixels))[0]""",
    "onnx": """\
session = onnxruntime.InferenceSession("$file")
logits = session.run(None, {"pixels": pixels$transpose})[0][0]""",
    "litert": """\
run = Interpreter("$file").get_signature_runner()
$output = next(iter(run(pixels=pixels$repeated).values()))[0]""",
    "saved_model": """\
model = tf.saved_model.load("$file")
logits = model.serve(pixels).numpy()[0]""",
}
RECORDS = {
    "keras": (
        f"The file also holds `{MODEL_INFO}`: `unzip -p $file {MODEL_INFO}`. All its layers are Keras' own; releases "
        f"from {OLDEST_KERAS} on load it."
    ),
    "onnx": (
        "Its metadata has the same as JSON, one key each: "
        '`json.loads(session.get_modelmeta().custom_metadata_map["class_names"])`.'
    ),
    "litert": (
        "It has the metadata of TensorFlow Lite: MediaPipe's `ImageClassifier` takes the file as it is. A zip "
        f"appended to the model holds `{PACKED_LABELS}` and `{MODEL_INFO}`: `unzip -p $file {MODEL_INFO}`."
    ),
    "saved_model": f"`serve_uint8` takes uint8 pixels. `assets.extra` in it holds `{LABELS}` and `{MODEL_INFO}`.",
}
QUANTIZED = {
    "int8": "Weights and activations are 8-bit integers; pixels go in and scores come out as float32.",
    "float16": "Weights are stored in 16 bits and computed with in 32.",
}
SNIPPET = Template("""\
$imports

labels = Path("labels.txt").read_text(encoding="utf-8").splitlines()
${reading}
$loading
${softmax}$answer
""")
BEST = "print(labels[scores.argmax()], scores.max())"
# Where an image may have several labels.
FROM_THRESHOLDS = """\
thresholds = Path("thresholds.txt").read_text().splitlines()
for label, score, least in zip(labels, scores, map(float, thresholds)):
    if score >= least:
        print(label, score)"""
SIGMOID = "scores = 1 / (1 + np.exp(-logits))\n"
# There are too many ways to store and scale bands for one line of code: the program takes prepared pixels.
BANDS = """\
bands = np.load(sys.argv[1], allow_pickle=False)  # .npy: ({height}, {width}, {channels}), in 0..255
pixels = bands.astype(np.float32)[None]"""
SOFTMAX = "scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()\n"
RESIZING = {
    "squash": "image.resize(({width}, {height}), Image.Resampling.BILINEAR)",
    "crop": "ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR)",
    "pad": "ImageOps.pad(image, ({width}, {height}), Image.Resampling.BILINEAR, color={background})",
}
RULES = {
    "squash": "is distorted to that size",
    "crop": "is cut to the middle of that shape, and shrunk",
    "pad": "is shrunk to fit, and padded with the background {background}",
}


def readme(info: ModelInfo, rows: Sequence[ExportedModel], resized_by: Sequence[Nearness] = ()) -> str:
    """Return the README of a folder of exports, in Markdown; `resized_by`: the results of other libraries' resizing."""
    height, width = info.image_size
    channels = info.preparation.channels
    rule = RULES[info.preparation.resize].format(background=info.background)
    age = "upgraded, and not trained since" if info.is_upgraded else f"the model after epoch {info.epoch}"
    parts = [
        "# An image classifier\n",
        f"{len(info.class_names):,} classes, backbone {markdown_text(info.backbone)}, head {markdown_text(info.head)}, "
        f"{age}; written by wisesr {markdown_text(info.versions.get('wisesr', '?'))}.\n",
        "These models run without wisesr:\n",
        to_markdown(_grid(rows)),
        f"Each takes float32 pixels (batch, {height}, {width}, {channels}), {channels_text(channels)} in 0..255, as "
        "many images at a time as you like, and gives logits (batch, classes), unless its section says otherwise. "
        f"Pixels are scaled inside.{_divided(info)} An image is turned upright by its EXIF record, and {rule} "
        f"(bilinear, antialiased). {_reading_of(info)}\n",
        *([] if info.preparation.has_bands else [_resizing(resized_by)]),
        f"`{LABELS}` holds a class name per line, in the order of the logits. Line breaks and other hidden characters "
        f"in names are written as escapes there; `{MODEL_INFO}` in the models has the exact names, image size, "
        f"resizing rule and versions.{_several(info)}\n",
    ]
    return "\n".join([*parts, *(_section(info, row) for row in rows)])


def _several(info: ModelInfo) -> str:
    """Return a sentence about a model that gives an image any number of labels."""
    if not info.is_multilabel:
        return ""
    return (
        " An image may have several labels, or none: each has its own score, the sigmoid of its logit, and is given at "
        f"or above the score on its line of `{THRESHOLDS}`."
    )


def _divided(info: ModelInfo) -> str:
    """Return a sentence about the temperature of a model that has one."""
    if info.temperature == 1:
        return ""
    function = "sigmoid" if info.is_multilabel else "softmax"
    return (
        f" Probabilities are the {function} of logits divided by the temperature {info.temperature:.6g}, which was "
        "fitted on validation images so that a score says how often it is right."
    )


def _reading_of(info: ModelInfo) -> str:
    """Return sentences about what wisesr does when reading files, but the snippets do not."""
    if info.preparation.has_bands:
        bands = "Bands are those of the file, in its order, alpha among them; the snippets below take them as arrays."
        return f"{bands}{_rules_of(info.preparation)}"
    over = f"wisesr lays transparent images over {info.background}; the snippets below do not."
    return f"{over}{_rules_of(info.preparation)}"


def _resizing(resized_by: Sequence[Nearness]) -> str:
    """Describe resizing with other libraries, and how often it gave the same labels."""
    text = (
        "In place of Pillow, `tf.image.resize(..., antialias=True)` gives nearly the same, and OpenCV comes close "
        "with `interpolation=cv2.INTER_AREA` (its colours are BGR); torchvision's `v2.Resize` of a Pillow image is "
        "Pillow's. By default, TensorFlow and OpenCV skip pixels when an image shrinks, which changes labels.\n"
    )
    if not resized_by:
        return text
    figures = numbers("images", "same best label", "largest difference of a probability")
    found = [(row.call, row.agreement) for row in resized_by]
    cells = tuple(
        (call, f"{each.images:,}", percent(each.top1_agreement), f"{each.probability_difference:.1e}")
        for call, each in found
    )
    table = to_markdown(Grid("", (*texts("resized by"), *figures), cells))
    title = "The run's answers to full-size images resized in these ways, compared with those of `wisesr predict`:"
    return f"{text}\n{title}\n\n{table}"


def _rules_of(preparation: Preparation) -> str:
    """Return sentences about what wisesr does to values and colours, but the snippets do not."""
    color = " Nor do they convert colours with an ICC profile to sRGB, as wisesr does."
    low_high = preparation.value_range
    depth = (
        "" if low_high is None else f" In images of more than 8 bits, values of {range_text(low_high)} become 0 to 255."
    )
    return depth + (color if preparation.color == "srgb" and not preparation.has_bands else "")


def _grid(rows: Sequence[ExportedModel]) -> Grid:
    figures = numbers("MB", "images compared", "largest difference of a probability", "same best label")
    cells = tuple(
        (
            row.file,
            f"{row.bytes / 1e6:,.2f}",
            f"{row.compared_images:,}",
            f"{row.max_probability_difference:.1e}",
            percent(row.top1_agreement),
        )
        for row in rows
    )
    return Grid("", (*texts("file"), *figures), cells)


def _section(info: ModelInfo, row: ExportedModel) -> str:
    """Return the section of one model: how to install its runtime, load it and run it."""
    example, install = "photo.jpg", INSTALLS[row.format]
    if info.preparation.has_bands:
        example, install = "pixels.npy", install.removesuffix(" pillow")
    notes = [RECORDS[row.format].replace("$file", row.file)]
    notes[:0] = _differences(row, info.preparation.channels)
    if row.top1_accuracy is not None:
        notes.insert(
            len(notes) - 1,
            f"Top-1 accuracy on {row.judged_images:,} images: {percent(row.top1_accuracy)}, before "
            f"{percent(row.run_top1_accuracy)}.",
        )
    return (
        f"## {row.file}\n\n{' '.join(notes)}\n\n```bash\n{install}\n```\n\n"
        f"Save this as `label.py` in this folder, and run `python label.py {example}`:\n\n"
        f"```python\n{snippet(info, row)}```\n"
    )


def _differences(row: ExportedModel, channels: int) -> list[str]:
    """Return sentences about the inputs and outputs that this model has and others do not."""
    notes = [QUANTIZED[row.quantize]] if row.quantize is not None else []
    if row.output == "probabilities":
        notes.append("It gives probabilities.")
    if row.layout == "nchw":
        like = ", as `cv2.dnn.blobFromImage` gives them" if channels == RGB else ""
        notes.append(f"Pixels go in as (batch, {channels}, height, width){like}.")
    if row.resize == "inside":
        notes.append("It takes upright images of any size, the same for all of a batch, and resizes them inside.")
    if row.batch is not None:
        notes.append(f"It takes exactly {row.batch:,} at a time.")
    return notes


def _reading(info: ModelInfo, resizing: str) -> str:
    """Return the lines that read pixels, (1, height, width, channels)."""
    preparation = info.preparation
    if preparation.has_bands:
        height, width = info.image_size
        return BANDS.format(height=height, width=width, channels=preparation.channels)
    mode, grey = ("L", "[..., None]") if preparation.channels == 1 else ("RGB", "")
    if mode == "L":
        resizing = resizing.replace(str(info.background), str(info.background[0]))
    opened = f'image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("{mode}")'
    return f"{opened}\n{resizing}pixels = np.asarray(image, np.float32)[None]{grey}"


def snippet(info: ModelInfo, row: ExportedModel) -> str:
    """Return a program that labels one image with an exported model."""
    height, width = info.image_size
    bands = info.preparation.has_bands
    resizing = RESIZING[info.preparation.resize].format(height=height, width=width, background=info.background)
    imports = ["import numpy as np", IMPORTS[row.format], *([] if bands else ["from PIL import Image, ImageOps"])]
    imports.sort(key=lambda line: (line.startswith("from "), line.split()[1].lower()))  # whole modules first
    return SNIPPET.substitute(
        imports="\n".join(["import sys", "from pathlib import Path", "", *imports]),
        reading=_reading(info, "" if row.resize == "inside" else f"image = {resizing}\n"),
        loading=Template(LOADING[row.format]).substitute(
            file=row.file,
            output="logits" if row.output == "logits" else "scores",
            transpose=".transpose(0, 3, 1, 2)" if row.layout == "nchw" else "",
            repeated="" if row.batch in (None, 1) else f".repeat({row.batch}, axis=0)",
        ),
        softmax=_probabilities(info) if row.output == "logits" else "",
        answer=FROM_THRESHOLDS if info.is_multilabel else BEST,
    )


def _probabilities(info: ModelInfo) -> str:
    """Return the lines that turn logits into probabilities, dividing by the model's temperature."""
    made = SIGMOID if info.is_multilabel else SOFTMAX
    return made if info.temperature == 1 else f"logits = logits / {info.temperature:.6g}\n{made}"
