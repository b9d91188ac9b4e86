"""Trains a torchvision backbone in Ultralytics: ultralytics_train.py DATA BACKBONE SIDE EPOCHS BATCH FOLDER.

On a CPU, Ultralytics reads images in the training process, and computes in one thread less than the machine has cores.
"""

import sys
from pathlib import Path

from ultralytics import YOLO

# Channels of the map, torchvision's name, layers cut off its end.
BACKBONES = {"MobileNetV2": (1280, "mobilenet_v2", 1), "ResNet50": (2048, "resnet50", 2)}

data, backbone, side, epochs, batch, folder = sys.argv[1:]
channels, name, cut = BACKBONES[backbone]
Path(folder).mkdir(parents=True, exist_ok=True)
config = Path(folder) / "model.yaml"
config.write_text(
    f"nc: 10\nbackbone:\n  - [-1, 1, TorchVision, [{channels}, {name}, null, True, {cut}]]\n"
    "head:\n  - [-1, 1, Classify, [nc]]\n",
    encoding="utf-8",
)
model = YOLO(config, task="classify")
model.add_callback("on_fit_epoch_end", lambda trainer: print("epoch", trainer.epoch + 1, flush=True))
model.train(
    data=data,
    epochs=int(epochs),
    imgsz=int(side),
    batch=int(batch),
    optimizer="AdamW",
    device="cpu",
    plots=False,
    project=str(Path(folder).absolute()),
    name="run",
    verbose=False,
)
