"""Translates options of other tools into those of wisesr, as hints for their users.

To add a word, add a row to `OPTIONS`.
"""

from __future__ import annotations

import re
from typing import Any

# Options of Ultralytics, timm, fastai, Ludwig and Keras' examples, and what to type here.
OPTIONS = {
    "--amp": "--precision mixed_float16",
    "--arch": "--backbone NAME",
    "--architecture": "--backbone NAME",
    "--batch": "--batch-size N",
    "--bs": "--batch-size N",
    "--config": "the config as SOURCE: wisesr train config.yaml",
    "--cutmix": "-s augment.cutmix=ALPHA",
    "--data-dir": "--data FOLDER",
    "--drop": "--dropout FRACTION",
    "--exist-ok": "--overwrite",
    "--grad-accum-steps": "-s train.gradient_accumulation_steps=STEPS",
    "--half": "--precision mixed_float16",
    "--img-size": "--image-size SIZE",
    "--imgsz": "--image-size SIZE",
    "--input-size": "--image-size SIZE",
    "--label-smoothing": "-s train.label_smoothing=FRACTION",
    "--lr0": "--learning-rate RATE",
    "--model": "--backbone NAME (train) or RUN as the first word (evaluate, predict, explain, export)",
    "--mixup": "-s augment.mixup=ALPHA",
    "--model-ema": "-s train.ema=MOMENTUM",
    "--momentum": "-s train.optimizer.momentum=FRACTION",
    "--num-classes": "nothing: the classes are the folders",
    "--opt": "--optimizer NAME",
    "--output": "--output-dir DIR",
    "--patience": "-s train.early_stopping.patience=EPOCHS",
    "--pretrained": "--weights imagenet",
    "--project": "--output-dir DIR",
    "--reprob": "-s augment.random_erasing=PROBABILITY",
    "--sched": "--schedule NAME",
    "--size": "--image-size SIZE",
    "--smoothing": "-s train.label_smoothing=FRACTION",
    "--source": "the images as INPUT: wisesr predict RUN IMAGE",
    "--val-split": "-s data.validation_split=FRACTION",
    "--validation-split": "-s data.validation_split=FRACTION",
    "--warmup-epochs": "-s train.schedule.warmup_epochs=EPOCHS",
    "--wd": "-s train.optimizer.weight_decay=VALUE",
    "--weight-decay": "-s train.optimizer.weight_decay=VALUE",
    "--workers": "nothing: all processors decode images",
}
_ASSIGNMENT = re.compile(r"(-*[A-Za-z][\w-]*)=(.*)", re.DOTALL)


def translation(error: Any) -> str | None:
    """Return what to type instead of another tool's option, or of `epochs=2`; None for any other mistake."""
    name = getattr(error, "option_name", None)
    if name is not None:
        return f"No such option: {name}. Type {OPTIONS[name]}." if name in OPTIONS else None
    found = re.search(r"unexpected extra arguments? \((.*)\)|extra argument\(s\) \((.*)\)", error.format_message())
    words = next(filter(None, found.groups()), "").split() if found is not None else []
    typed = [_ASSIGNMENT.fullmatch(word) for word in words]
    if not typed or not all(typed):
        return None
    pairs = [(f"--{match[1].replace('_', '-')}", match[2]) for match in typed if match is not None]
    meant = [f"{OPTIONS[name].split(' ')[0] if name in OPTIONS else name} {value}" for name, value in pairs]
    return f"Options are not written as {' '.join(words)}. Type {' '.join(meant)}."
