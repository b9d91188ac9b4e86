"""Makes the table of backbone costs at any image size; `python tests/support/backbone_costs.py` rewrites it.

Every backbone is built once, without values, and its operations are followed from the pixels on: each operation over a
window turns one resolution into another. Before the rows are written, they are compared with Keras at many image
sizes, which takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import BACKBONES, build_backbone
from wisesr_cli.models.costs import BackboneSizes, Resolution
from wisesr_cli.models.flops import COUNTS, count_flops

TARGET = Path(__file__).parents[2] / "wisesr_cli" / "models" / "costs_table.py"

# Keras pads some sides according to their parity, to get (side + 1) // 2. For odd sides that is kernel // 2 at either
# end, a padding that gives (side + 1) // 2 for even sides, too. These sides stay odd however often they are halved.
TRACED_SIDE = 257
TRACED_SIDES = {"NASNetMobile": 259, "NASNetLarge": 259}  # their first convolution takes (side - 1) // 2

WHOLE: Resolution = (1, 0)
Resolutions = tuple[Resolution, Resolution] | None  # rows, columns; None: the same size for every image
Axis = tuple[int, int]  # padding or cropping before and after


def then(resolution: Resolution, *, stride: int = 1, added: int = 0) -> Resolution:
    """Return the resolution whose side is (side + added) // stride of this one's.

    ((n + a) // s + b) // t is (n + a + b s) // (s t).
    """
    before, added_before = resolution
    return before * stride, added_before + added * before


def sizes_of(name: str) -> BackboneSizes:
    """Return a row of the table, from a model of one size."""
    side = TRACED_SIDES.get(name, TRACED_SIDE)
    backbone = build_without_values(lambda: build_backbone(name, (side, side)))
    costs: dict[Resolution | None, int] = {}
    (resolutions,) = follow(backbone, [(WHOLE, WHOLE)], costs)
    return BackboneSizes(
        parameters=int(backbone.count_params()),
        trainable_parameters=sum(prod(weight.shape) for weight in backbone.trainable_weights),
        channels=backbone.output_shape[-1],
        resolution=of_both_sides(resolutions),
        flops_elsewhere=costs.pop(None, 0),
        flops_per_position={resolution: costs[resolution] for resolution in sorted(filter(None, costs))},
    )


def follow(model: Any, inputs: list[Resolutions], costs: dict[Resolution | None, int]) -> list[Resolutions]:
    """Return the resolutions of a model's outputs, and add to `costs` the FLOPs per position of each resolution."""
    known = {id(tensor): each for tensor, each in zip(model.inputs, inputs, strict=True)}
    for operation in getattr(model, "operations", model.layers):  # a `Sequential` has only layers
        if type(operation).__name__ == "InputLayer":
            continue
        given = [known[id(tensor)] for tensor in tensors(operation.input)]
        if hasattr(operation, "layers"):
            results = follow(operation, given, costs)
        else:
            results = [after(operation, given)]
            count(operation, given[0], results[0], costs)
        known |= {id(tensor): each for tensor, each in zip(tensors(operation.output), results, strict=True)}
    return [known[id(tensor)] for tensor in model.outputs]


def tensors(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def after(operation: Any, given: list[Resolutions]) -> Resolutions:
    """Return the resolutions of an operation's result."""
    rule = RULES.get(type(operation).__name__)
    if rule is not None and given[0] is not None:
        return rule(operation, given[0])
    different = set(given) - {None}
    assert len(different) <= 1, f"{operation.name} joins maps of different resolutions"
    return different.pop() if different else None


def count(operation: Any, before: Resolutions, behind: Resolutions, costs: dict[Resolution | None, int]) -> None:
    """Add the FLOPs of an operation to the positions of its output or, if that has none, of its input."""
    if type(operation).__name__ not in COUNTS:
        return
    shapes = tuple(operation.input.shape[1:]), tuple(operation.output.shape[1:])
    flops = COUNTS[type(operation).__name__](operation, *shapes)
    where, shape = (behind, shapes[1]) if behind is not None else (before, shapes[0])
    resolution = None if where is None else of_both_sides(where)
    each, rest = divmod(flops, 1 if where is None else prod(shape[:-1]))
    assert rest == 0, f"{operation.name}: {flops} FLOPs over {shape}"
    costs[resolution] = costs.get(resolution, 0) + each


def of_both_sides(resolutions: Resolutions) -> Resolution:
    """Return the resolution of rows and columns, which is the same in every backbone."""
    assert resolutions is not None
    rows, columns = resolutions
    assert rows == columns, f"rows {rows}, columns {columns}"
    return rows


def window(layer: Any, sizes: tuple[int, int], given: tuple[Resolution, Resolution]) -> Resolutions:
    """Follow a layer with a sliding window; padding 'same' turns a side into ceil(side / stride)."""
    spread = getattr(layer, "dilation_rate", (1, 1))
    found = []
    for resolution, size, stride, dilation in zip(given, sizes, layer.strides, spread, strict=True):
        reach = 1 if layer.padding == "same" else (size - 1) * dilation + 1
        found.append(then(resolution, stride=stride, added=stride - reach))
    return found[0], found[1]


def widened(given: tuple[Resolution, Resolution], amounts: tuple[Axis, Axis], sign: int) -> Resolutions:
    rows, columns = (then(each, added=sign * sum(both)) for each, both in zip(given, amounts, strict=True))
    return rows, columns


def convolution(layer: Any, given: tuple[Resolution, Resolution]) -> Resolutions:
    return window(layer, layer.kernel_size, given)


def pooling(layer: Any, given: tuple[Resolution, Resolution]) -> Resolutions:
    return window(layer, layer.pool_size, given)


RULES: dict[str, Callable[[Any, tuple[Resolution, Resolution]], Resolutions]] = {
    "Conv2D": convolution,
    "DepthwiseConv2D": convolution,
    "SeparableConv2D": convolution,
    "AveragePooling2D": pooling,
    "MaxPooling2D": pooling,
    "GlobalAveragePooling2D": lambda layer, given: None,
    "GlobalMaxPooling2D": lambda layer, given: None,
    "ZeroPadding2D": lambda layer, given: widened(given, layer.padding, 1),
    "Cropping2D": lambda layer, given: widened(given, layer.cropping, -1),
}


def mistakes(name: str, sizes: BackboneSizes, image_sizes: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Yield a line for every difference between a row and the Keras backbone at these image sizes."""
    for image_size in image_sizes:
        backbone = build_without_values(lambda size=image_size: build_backbone(name, size))
        trainable = sum(prod(weight.shape) for weight in backbone.trainable_weights)
        for what, found, expected in (
            ("parameters", sizes.parameters, backbone.count_params()),
            ("trainable parameters", sizes.trainable_parameters, trainable),
            ("feature map", sizes.feature_map(image_size), tuple(backbone.output_shape[1:])),
            ("FLOPs", sizes.flops(image_size), count_flops(backbone)),
        ):
            if found != expected:
                yield f"{name} at {image_size[0]}x{image_size[1]}: {what} {found}, in Keras {expected}"


def sizes_to_verify(name: str) -> tuple[tuple[int, int], ...]:
    """Return various image sizes: the smallest, odd and even, portrait and landscape, and the native one."""
    least, native = BACKBONES[name].minimum_size, BACKBONES[name].native_size
    more = ((1, 0), (2, 3), (7, 12), (16, 5), (29, 62), (64, 31), (91, 130), (161, 88))
    return ((least, least), *((least + rows, least + columns) for rows, columns in more), (native, native), (512, 385))


def source_of(table: dict[str, BackboneSizes]) -> str:
    """Return the source of the module with the table."""
    columns = ", ".join(field.name for field in fields(BackboneSizes))
    rows = "".join(f'    "{name}": BackboneSizes({_source_of_row(sizes)}),\n' for name, sizes in table.items())
    return (
        '"""What each backbone costs: FLOPs of one position by resolution, (stride, added pixels).\n\n'
        "Made by `python tests/support/backbone_costs.py` from the Keras models, which tests compare it with. See "
        '`costs.py`.\n"""\n\n'
        "from __future__ import annotations\n\n"
        "from wisesr_cli.models.costs import BackboneSizes\n\n"
        f"# {columns}.\n# fmt: off\nBACKBONE_SIZES: dict[str, BackboneSizes] = {{\n{rows}}}\n"
    )


def _source_of_row(sizes: BackboneSizes) -> str:
    """Return the arguments of a row: those of the backbone on the first line, FLOPs per position below."""
    plain = ", ".join(_source_of_value(getattr(sizes, field.name)) for field in fields(sizes)[:-1])
    parts = [f"{resolution}: {flops:_}" for resolution, flops in sizes.flops_per_position.items()]
    lines = [", ".join(parts[start : start + 5]) for start in range(0, len(parts), 5)]
    return f"{plain}, {{\n        " + ",\n        ".join(lines) + "}"


def _source_of_value(value: int | Resolution) -> str:
    return f"{value:_}" if isinstance(value, int) else str(value)


def main() -> None:
    keras_start.start("cpu")
    table, wrong = {}, []
    for name in BACKBONES:
        table[name] = sizes_of(name)
        wrong += mistakes(name, table[name], sizes_to_verify(name))
        print(f"{name}: {len(table[name].flops_per_position)} resolutions", flush=True)
    if wrong:
        raise SystemExit("\n".join(wrong))
    TARGET.write_text(source_of(table), encoding="utf-8")


if __name__ == "__main__":
    main()
