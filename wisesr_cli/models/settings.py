"""The settings of a model: backbone, weights, preprocessing, head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from wisesr_cli.models.backbones import BACKBONES, FROM_WEIGHTS, canonical_name
from wisesr_cli.models.heads import HEADS, HeadOptions, WiseOptions
from wisesr_cli.settings import Options, check_path, one_of

BackboneName = Annotated[
    str, AfterValidator(canonical_name), WithJsonSchema({"type": "string", "enum": [*BACKBONES, FROM_WEIGHTS]})
]

if TYPE_CHECKING:
    AnyHead = HeadOptions
else:
    AnyHead = one_of((row.options for row in HEADS.values()), default="wise")


class ModelConfig(Options):
    """The network: backbone, its weights and scaling, and the head."""

    backbone: BackboneName = "MobileNetV2"
    """A keras.applications name in any case, `compact` (small images), or `from_weights`: that of the run `weights`."""
    weights: Annotated[str, AfterValidator(check_path)] | None = None
    """null (random), imagenet, a weights or .keras file, or a run directory."""
    load_head: Literal["auto"] | bool = "auto"
    """Whether the head is loaded from `weights`, too; `auto`: where it fits, from a run as `wisesr upgrade` made it."""
    preprocessing: Literal["auto", "caffe", "tf", "torch", "unit", "none"] = "auto"
    """How pixels are scaled; `auto` is what the backbone was trained with."""
    feature_layer: str | None = None
    """Cut the backbone at this layer instead of its end."""
    head: AnyHead = Field(default=WiseOptions())
    """What turns the feature map into logits."""
