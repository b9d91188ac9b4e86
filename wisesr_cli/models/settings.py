"""The settings of a model: backbone, weights, preprocessing, head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from wisesr_cli.models.backbones import BACKBONES, FROM_WEIGHTS, canonical_name
from wisesr_cli.models.heads import HEADS, HeadOptions, WiseOptions
from wisesr_cli.settings import FolderPath, Options, check_path, one_of

BackboneName = Annotated[
    str, AfterValidator(canonical_name), WithJsonSchema({"type": "string", "enum": [*BACKBONES, FROM_WEIGHTS]})
]

WEIGHTS_WORDS = ("auto", "imagenet", "none")  # values of `weights` that are not paths


def _none_as_null(value: Any) -> Any:
    return None if value == "none" else value


if TYPE_CHECKING:
    AnyHead = HeadOptions
else:
    AnyHead = one_of((row.options for row in HEADS.values()), default="wise")


class ModelConfig(Options):
    """The network: backbone, its weights and scaling, and the head."""

    task: Literal["single", "multilabel"] = "single"
    """`single`: one label per image; `multilabel`: any number of them, as a manifest names them (`cat|dog`)."""
    backbone: BackboneName = "MobileNetV2"
    """A keras.applications name in any case, `compact` (small images), or `from_weights`: that of the run `weights`."""
    weights: Annotated[Annotated[str, AfterValidator(check_path)] | None, BeforeValidator(_none_as_null)] = Field(
        default="auto", examples=["auto", "imagenet", "none", "runs/photos-wise"]
    )
    """auto (imagenet where such weights are here or can be downloaded, else none), imagenet, none or null (random), a
    weights or .keras file, or a run directory."""
    weights_dir: FolderPath | None = Field(default=None, examples=["weights"])
    """Folder in which ImageNet weights are looked for first; then that of WISESR_WEIGHTS, then Keras' cache."""
    load_head: Literal["auto"] | bool = Field(default="auto", examples=["auto", True])
    """Whether the head is loaded from `weights`, too; `auto`: if it fits and is still as `wisesr upgrade` made it."""
    preprocessing: Literal["auto", "caffe", "tf", "torch", "unit", "none"] = "auto"
    """How pixels are scaled; `auto` is as in the file `weights`, or as the backbone was trained with ImageNet."""
    feature_layer: str | None = Field(default=None, examples=["block_13_expand_relu"])
    """Cut the backbone at this layer instead of its end."""
    head: AnyHead = Field(default=WiseOptions(), examples=[{"name": "wise"}, {"name": "gap", "dropout": 0.5}])
    """What turns the feature map into logits."""

    @property
    def is_random(self) -> bool:
        """Whether the backbone starts from random weights, as with an `auto` that no command has resolved."""
        return self.weights in (None, "auto")

    def without_weights(self) -> ModelConfig:
        """Return these settings without initial weights, except where the backbone is built from a file of weights."""
        weights = self.weights if self.backbone == FROM_WEIGHTS else None
        return self.model_copy(update={"weights": weights, "load_head": False})
