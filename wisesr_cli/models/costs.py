"""What a backbone costs at any image size, without building it: parameters, feature map and FLOPs by arithmetic.

Every map inside a backbone has sides of (pixels + added) // stride of the image's: a resolution. So it is enough to
know the FLOPs of one position at each of a backbone's resolutions. `costs_table.py` holds them, made of the Keras
models by `python tests/support/backbone_costs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

Resolution = tuple[int, int]  # stride, added: (32, 31) is ceil(pixels / 32), (32, 0) floor(pixels / 32)


@dataclass(frozen=True)
class BackboneSizes:
    """A row of the table.

    Args:
        parameters: of the backbone; its own scaling of the pixels is part of it.
        trainable_parameters: those that training changes.
        channels: of the feature map.
        resolution: of the feature map.
        flops_elsewhere: those that are the same at every image size, as in squeeze-and-excite.
        flops_per_position: by the resolution of the positions.
    """

    parameters: int
    trainable_parameters: int
    channels: int
    resolution: Resolution
    flops_elsewhere: int
    flops_per_position: dict[Resolution, int]

    def feature_map(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """Return height, width and channels of the feature map."""
        height, width = image_size
        return side_at(self.resolution, height), side_at(self.resolution, width), self.channels

    def flops(self, image_size: tuple[int, int]) -> int:
        """Return the FLOPs of one image of this height and width, counted as `flops.count_flops` does."""
        height, width = image_size
        flops = self.flops_per_position.items()
        return self.flops_elsewhere + sum(
            side_at(resolution, height) * side_at(resolution, width) * each for resolution, each in flops
        )


def side_at(resolution: Resolution, pixels: int) -> int:
    """Return how many positions a resolution has along a side of the image."""
    stride, added = resolution
    return (pixels + added) // stride
