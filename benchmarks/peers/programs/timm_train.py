"""Trains a model of timm with a plain PyTorch loop: timm_train.py DATA BACKBONE SIDE EPOCHS BATCH FOLDER.

timm's transforms read the images in worker processes of PyTorch's loader, one per core. After each epoch it validates,
and saves weights and the optimizer's state, as timm's own training script does.
"""

import os
import sys
from pathlib import Path

import timm
import torch
from timm.data import ImageDataset, create_transform

NAMES = {"MobileNetV2": "mobilenetv2_100", "ResNet50": "resnet50"}


def loader(folder, side, batch, training):
    """Return batches of a folder of class folders."""
    transform = create_transform(input_size=(3, side, side), is_training=training)
    return torch.utils.data.DataLoader(
        ImageDataset(str(folder), transform=transform),
        batch_size=batch,
        shuffle=training,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
    )


def main():
    """Train."""
    data, backbone, side, epochs, batch, folder = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    train = loader(Path(data) / "train", int(side), int(batch), True)
    validation = loader(Path(data) / "val", int(side), int(batch), False)
    classes = sorted(path.name for path in (Path(data) / "train").iterdir())
    model = timm.create_model(NAMES[backbone], pretrained=False, num_classes=len(classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    loss_function = torch.nn.CrossEntropyLoss()
    for epoch in range(int(epochs)):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss_function(model(images), labels).backward()
            optimizer.step()
        model.eval()
        right = 0
        with torch.inference_mode():
            for images, labels in validation:
                right += int((model(images).argmax(1) == labels).sum())
        kept = {"name": NAMES[backbone], "classes": classes, "side": int(side), "weights": model.state_dict()}
        torch.save({**kept, "optimizer": optimizer.state_dict()}, f"{folder}/best.pt")
        print("epoch", epoch + 1, flush=True)


if __name__ == "__main__":
    main()
