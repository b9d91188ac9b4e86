"""The requests of commands, as frozen records; their outcomes are in `results`.

The fields of a record are the arguments of the function of that name in `api`, and the options of the command. To add
an option: a field here, its option in `cli`, and the place that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from wisesr_cli.listening import Listener, Silent
from wisesr_cli.results.streams import Contribution

if TYPE_CHECKING:  # a record is made before anything that takes time to import
    from wisesr_cli.config.reader import Override
    from wisesr_cli.data.settings import SplitName
    from wisesr_cli.machine.keras_start import DeviceChoice
    from wisesr_cli.machine.stopping import StopRequest

    Settings = Mapping[str, Any] | Sequence[Override]

EngineChoice = Literal["auto", "litert", "keras"]
OutputFormat = Literal["table", "json", "jsonl", "csv", "markdown", "parquet"]
SortName = Literal["uncertain", "path", "label", "score"]
PlacingMode = Literal["copy", "link", "move"]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]
AnySize = str | int | tuple[int, int]  # 288, "224x320" or (224, 320): height and width


class Screen(Protocol):
    """Shows pictures while records are produced."""

    def show(self, picture: Any, caption: str, contribution: Contribution | None = None) -> None:
        """Show a Pillow image with a caption below it and, if given, a contribution overlaid on it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The fields of every request."""

    device: DeviceChoice = "auto"
    """The device to compute on."""
    listener: Listener = field(default=Silent(), repr=False, compare=False)
    """Receives progress, notes and warnings."""


@dataclass(frozen=True, kw_only=True)
class StreamRequest(Request):
    """The fields of a request for any number of images."""

    from_file: str | None = None
    """A file with a path per line; its images follow the inputs."""
    null_separated: bool = False
    """Whether paths read from a file or standard input end with NUL instead of a line feed."""
    batch_size: int = 32
    """Images per step; does not change results."""
    pixel_limit: int | None = None
    """Width times height above which an image is not decoded; None is `images.decoding.PIXEL_LIMIT`."""
    stop: StopRequest | None = field(default=None, repr=False, compare=False)
    """Says whether a signal asked to stop, if the caller handles signals."""


@dataclass(frozen=True)
class EvaluateRequest(Request):
    """Evaluate a run on labelled images."""

    run: str | Path
    """A run directory, or its best.keras."""
    _: KW_ONLY
    split: SplitName | None = None
    """A split of the run; None is its test split if it has one, else validation."""
    data: str | Path | None = None
    """An image folder to evaluate on instead; classes are matched by name."""
    batch_size: int = 32
    """Images per step; does not change metrics."""
    on_error: Literal["fail", "skip"] | None = None
    """What to do about unreadable images; None is the setting of the run."""
    pixel_limit: int | None = None
    """Width times height above which an image is not decoded; None is the limit of the run."""
    precision: Precision = "float32"
    """Numeric precision of the computation."""
    image_size: AnySize | None = None
    """Height and width; None is the training size. Results at another size get their own folder."""
    engine: EngineChoice = "auto"
    """The inference engine; `auto` is LiteRT where possible."""
    coverage: float | None = None
    """Target coverage of prediction sets, in 0..1: the share of sets that contain the true class; None: no sets."""
    label_issues: bool = False
    """Whether to list labels that look wrong, in the validation and test splits or in `data`."""
    report: bool = False
    """Whether to also write a self-contained report.html with contribution maps."""


@dataclass(frozen=True)
class PredictRequest(StreamRequest):
    """Label images: a record per image, in order."""

    run: str | Path
    """A run directory, or its best.keras."""
    inputs: Iterable[str | Path] = ()
    """Files, folders (recursive), globs, and `-` for paths on standard input."""
    _: KW_ONLY
    top_k: int = 5
    """Labels per image."""
    min_score: float = 0.0
    """A record's label is None below this score."""
    coverage: float | None = None
    """Target coverage of prediction sets (`labels`), in 0..1: the share that contains the true class; None: no sets."""
    probabilities: bool = False
    """Whether records include the probability of every class."""
    sort: SortName | None = None
    """The order of the records, which then come after the last image; None is the order of the inputs."""
    only: str | None = None
    """`uncertain=N`: only the records of the N most uncertain images, most uncertain first unless `sort` is given."""
    precision: Precision = "float32"
    """Numeric precision of the computation."""
    image_size: AnySize | None = None
    """Height and width; None is the training size."""
    engine: Literal["auto", "litert", "keras", "ray"] = "auto"
    """The inference engine; `auto` is LiteRT where possible; `ray` does the same on Ray workers, of the cluster that
    the process is connected to or else the one at `ray_address`."""
    shard: str | None = None
    """I/N for part I, counted from 0, of N equal parts of the inputs; None is all of them."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster, or auto; None is RAY_ADDRESS if set, else a local Ray for this call."""
    ray_workers: int | None = None
    """Number of Ray workers; None is one per processor, or per GPU."""
    output: str | None = None
    """A file for the records. It appears once it is complete; a journal next to it lets an interrupted one resume."""
    output_format: OutputFormat | None = None
    """The format of that file; None infers it from the suffix."""
    sheet: str | None = None
    """A PNG file to show the first images in, with label and score."""
    sort_into: str | None = None
    """A folder to put the images into, in one folder per label; images without a label go to `unsure`."""
    sort_into_by: PlacingMode = "copy"
    """Whether they are copied, linked or moved."""
    overwrite: bool = False
    """Whether to replace an existing output or sheet, and discard unfinished work in `sort_into`."""
    resume: bool = False
    """Whether to resume an interrupted output; without `sort` and `only`, records already in it are not repeated."""
    explain: str | None = None
    """A folder for one explanation picture per image, written before its record is yielded."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """Shows every photo."""


@dataclass(frozen=True)
class EmbedRequest(StreamRequest):
    """Compute feature vectors of images, the input of a run's classifier layer: a record per image, in order."""

    run: str | Path
    """A run directory, or its best.keras."""
    inputs: Iterable[str | Path] = ()
    """Files, folders (recursive), globs, and `-` for paths on standard input."""
    _: KW_ONLY
    image_size: AnySize | None = None
    """Height and width; None is the training size."""
    engine: EngineChoice = "auto"
    """The inference engine; `auto` is LiteRT where possible."""
    output: str | None = None
    """A .npz or .parquet file for all vectors. It appears once it is complete; a journal next to it lets an interrupted
    one resume."""
    overwrite: bool = False
    """Whether to replace an existing output."""
    resume: bool = False
    """Whether to resume an interrupted output; records already in it are not repeated."""


@dataclass(frozen=True)
class ExplainRequest(StreamRequest):
    """Explain images: a record per image, in order, of what each feature map position contributes to the logits."""

    run: str | Path
    """A run directory, or its best.keras."""
    inputs: Iterable[str | Path] = ()
    """Files, folders (recursive), globs, and `-` for paths on standard input."""
    _: KW_ONLY
    classes: Sequence[str] = ()
    """Names of classes to explain, besides the predicted one and the runner-up."""
    bands: str | Sequence[int] = ""
    """Bands, counted from 1, that pictures show as red, green and blue ("3,2,1"), or one band to show as grey."""
    write: bool = False
    """Whether to also write pictures, contact sheets and the numbers."""
    output_dir: str | None = None
    """The folder for them; None is `explain` next to the model file."""
    pictures: int = 1000
    """Maximum number of images with their own picture."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """Shows every photo."""


@dataclass(frozen=True)
class WeightsRequest(Request):
    """Show what a head has learned about positions."""

    run: str | Path
    """A run directory, or its best.keras."""
    _: KW_ONLY
    classes: Sequence[str] = ()
    """Names of classes; empty is all."""
    write: bool = False
    """Whether to also write a picture and the numbers."""
    output_dir: str | None = None
    """The folder for them; None is `explain` next to the model file."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """Shows the picture."""
    stop: StopRequest | None = field(default=None, repr=False, compare=False)
    """Says whether a signal asked to stop, if the caller handles signals."""


@dataclass(frozen=True)
class FetchWeightsRequest(Request):
    """Download Keras' ImageNet weights of backbones."""

    backbones: Sequence[str]
    """Their names."""
    _: KW_ONLY
    output_dir: str | Path | None = None
    """The folder to download into, to carry elsewhere; None is Keras' cache."""
    overwrite: bool = False
    """Whether to download existing files again."""


@dataclass(frozen=True)
class AddWeightsRequest(Request):
    """Add a file to the ImageNet weights of this machine, after checking that it fits the backbone."""

    backbone: str
    """Its name."""
    file: str | Path
    """Keras' release, or another `.h5` or `.keras` file, or a run, with weights that fit."""
    _: KW_ONLY
    overwrite: bool = False
    """Whether to replace existing weights."""


@dataclass(frozen=True)
class ExportRequest(Request):
    """Write a run's best model in other formats, each reloaded by its own runtime and compared with the run."""

    run: str | Path
    """A run directory, or its best.keras."""
    to: str | Sequence[str]
    """keras, onnx, litert, saved_model: one or several, as a sequence or separated by commas."""
    _: KW_ONLY
    quantize: Literal["int8", "float16"] | None = None
    """Quantization for LiteRT; the record states its cost in accuracy."""
    logits: bool = False
    """Whether LiteRT returns logits instead of probabilities, which MediaPipe and others expect."""
    fixed_batch: int | None = None
    """Fixed batch size of the LiteRT model; None is any."""
    pixel_layout: Literal["nhwc", "nchw"] = "nhwc"
    """Input layout of ONNX: (batch, height, width, channels), or (batch, channels, height, width)."""
    layout: Literal["plain", "triton", "tf-serving"] = "plain"
    """Also arrange the exports as this model server expects them."""
    resize: Literal["outside", "inside"] = "outside"
    """`inside`: the model accepts images of any size and resizes them as wisesr does; not for LiteRT."""
    image_size: AnySize | None = None
    """Height and width; None is the training size."""
    data: str | Path | None = None
    """Image folder to compare on; None is the run's validation split, else test, else train."""
    output_dir: str | Path | None = None
    """The folder; None is `export` next to the model file."""
    overwrite: bool = False
    """Whether to replace earlier exports."""


@dataclass(frozen=True)
class UpgradeRequest(Request):
    """Make a run of a Keras classifier that ends in global average pooling; its head gives the same outputs."""

    model: str | Path
    """A `.keras` file, or a run whose head is `gap`."""
    settings: Settings | None = None
    """Values of the run's config, by key: `data.dir` (images to compare on and to fine-tune on), `name`, `output_dir`,
    `data.image_size` (where the model takes any), `model.preprocessing` (how pixels are scaled before the model),
    options of the head."""
    _: KW_ONLY
    classes: str | Path | None = None
    """A file with a class name per line; None uses those of the image folder, or generates names."""
    overwrite: bool = False
    """Whether to replace the run of this name."""


@dataclass(frozen=True)
class CompareRequest(Request):
    """Train heads over seeds, all else equal, and compare them: mean, spread, paired difference, cost."""

    source: str | Path
    """A YAML config or an image folder."""
    settings: Settings | None = None
    """Values that override the config, by key; `name` is the comparison's folder in `output_dir`."""
    _: KW_ONLY
    heads: str | Sequence[str] = "gap,wise,flatten"
    """Heads, as `wise` or `wise:pooling=valid`; the others are compared with the first."""
    seeds: int | str | Sequence[int] | None = None
    """Number of seeds (3 means 0, 1, 2), or the seeds, as "0,5,7" or a sequence; None is 3, or 1 with `folds`."""
    folds: int | None = None
    """Number of cross-validation folds of the training images: every head is trained once per fold, and evaluated on
    it; None evaluates on the test or validation images."""
    label_issues: bool = False
    """Whether to list labels that look wrong, from predictions on held-out folds."""
    resume: bool = False
    """Whether to resume the comparison of this name; finished trainings are not repeated."""


@dataclass(frozen=True)
class SummarizeRequest(Request):
    """Count parameters, FLOPs and sizes of backbones with heads, a row each."""

    source: str | Path | None = None
    """A config, an image folder or a run directory; None is MobileNetV2 at 224 pixels."""
    settings: Settings | None = None
    """Values that override the config, by key."""
    _: KW_ONLY
    backbones: Sequence[str] = ()
    """Names, or `all`; empty is the config's."""
    heads: Sequence[str] = ()
    """Heads, also as `wise:pooling=valid`, or `all`; empty is all."""
    image_sizes: Sequence[str | int] = ()
    """224 or "224x320" (height x width); empty is the config's."""
    classes: int | None = None
    """Number of classes; None counts those of the source, else 10."""
    latency: bool = False
    """Whether to time one image through each model, too."""
