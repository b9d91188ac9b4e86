"""Labels a folder of photos with ONNX Runtime while threads decode them: predict_onnx.py MODEL PATH."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

BATCH = 32

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
height, width = session.get_inputs()[0].shape[1:3]
paths = sorted(Path(sys.argv[2]).iterdir())


def decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), np.float32)


with ThreadPoolExecutor(os.cpu_count()) as pool:
    pixels = pool.map(decode, paths)  # all photos are decoded ahead
    for start in range(0, len(paths), BATCH):
        chosen = paths[start : start + BATCH]
        logits = session.run(None, {name: np.stack([next(pixels) for _ in chosen])})[0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        for path, probabilities in zip(chosen, powers / powers.sum(axis=1, keepdims=True), strict=True):
            best = probabilities.argsort()[::-1][:5]
            print(path, *(f"{label}:{probabilities[label]:.4f}" for label in best))
