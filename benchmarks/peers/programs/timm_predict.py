"""Labels a photo, or a folder of photos, with a model of timm: timm_predict.py MODEL PATH."""

import os
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform


class Photos(torch.utils.data.Dataset):
    """Files as tensors."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, position):
        """Return the image of a file."""
        return self.transform(Image.open(self.paths[position]).convert("RGB"))


def main():
    """Print the five best labels of each."""
    kept = torch.load(sys.argv[1])
    model = timm.create_model(kept["name"], pretrained=False, num_classes=len(kept["classes"]))
    model.load_state_dict(kept["weights"])
    model.eval()
    path = Path(sys.argv[2])
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    transform = create_transform(input_size=(3, kept["side"], kept["side"]), is_training=False)
    workers = len(os.sched_getaffinity(0)) if len(paths) > 1 else 0
    batches = torch.utils.data.DataLoader(Photos(paths, transform), batch_size=32, num_workers=workers)
    rest = iter(paths)
    with torch.inference_mode():
        for images in batches:
            for scores in model(images).softmax(1):
                best = scores.topk(5)
                labels = (
                    f"{kept['classes'][n]}:{value:.4f}" for value, n in zip(best.values, best.indices, strict=True)
                )
                print(next(rest), *labels, flush=True)


if __name__ == "__main__":
    main()
