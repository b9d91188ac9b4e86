"""Labels a photo, or a folder of photos, with Ultralytics: ultralytics_predict.py MODEL PATH."""

import sys

from ultralytics import YOLO

model = YOLO(sys.argv[1])
for result in model.predict(sys.argv[2], stream=True, device="cpu", batch=32, verbose=False):
    labels = (f"{result.names[label]}:{result.probs.data[label]:.4f}" for label in result.probs.top5)
    print(result.path, *labels, flush=True)
