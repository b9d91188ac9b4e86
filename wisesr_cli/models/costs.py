"""Computes the costs of a backbone at any image size without building it: parameters, feature map and FLOPs.

The sides of every map inside a backbone are (pixels + added) // stride: a resolution. Therefore the FLOPs of one
position at each resolution suffice. `costs_table.py` contains them, generated from the Keras models by
`python tests/support/backbone_costs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

Resolution = tuple[int, int]  # stride, added: (32, 31) is ceil(pixels / 32), (32, 0) floor(pixels / 32)


@dataclass(frozen=True)
class BackboneSizes:
    """A row of the table."""

    parameters: int  # with the backbone's own scaling of pixels
    trainable_parameters: int
    channels: int  # of the feature map
    resolution: Resolution  # of the feature map
    flops_elsewhere: int  # independent of the image size, as in squeeze-and-excite
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
    """Return the number of positions of a resolution along a side of the image."""
    stride, added = resolution
    return (pixels + added) // stride
