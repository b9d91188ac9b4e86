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
    """What shows pictures while records go by."""

    def show(self, picture: Any, caption: str, contribution: Contribution | None = None) -> None:
        """Show a Pillow image and a line below it, and a contribution laid over it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The fields of every request."""

    device: DeviceChoice = "auto"
    """Where to compute."""
    listener: Listener = field(default=Silent(), repr=False, compare=False)
    """Who is told what happens."""


@dataclass(frozen=True, kw_only=True)
class StreamRequest(Request):
    """The fields of a request for any number of images."""

    from_file: str | None = None
    """A file with a path per line, whose images come behind the inputs."""
    null_separated: bool = False
    """Whether paths that are read end in NUL instead of a line feed."""
    batch_size: int = 32
    """Images per step; changes no result."""
    pixel_limit: int | None = None
    """Width times height above which an image is not decoded; None is `images.decoding.PIXEL_LIMIT`."""
    stop: StopRequest | None = field(default=None, repr=False, compare=False)
    """Whether a signal asked to stop, where the caller handles signals."""


@dataclass(frozen=True)
class EvaluateRequest(Request):
    """Evaluate a run on labelled images."""

    run: str | Path
    """A run directory, or its best.keras."""
    _: KW_ONLY
    split: SplitName | None = None
    """A split of the run; None is its test split when it has one, else validation."""
    data: str | Path | None = None
    """Another image folder instead; classes are matched by name."""
    batch_size: int = 32
    """Images per step; changes no metric."""
    on_error: Literal["fail", "skip"] | None = None
    """What an unreadable image does; None does as the run did."""
    pixel_limit: int | None = None
    """Width times height above which an image is refused; None is the run's."""
    precision: Precision = "float32"
    """Numeric precision of the computation."""
    image_size: AnySize | None = None
    """Height and width; None is that of the training. Results at another size have their own folder."""
    engine: EngineChoice = "auto"
    """What runs the model; `auto` is LiteRT where it can."""
    coverage: float | None = None
    """The share of images, in 0..1, whose true class is to be in a set of labels; None measures no such sets."""
    label_issues: bool = False
    """Whether to list labels that look wrong: in the validation and test split, or in those of `data`."""
    report: bool = False
    """Whether to write a self-contained report.html, too, with contribution maps."""


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
    """Below it a record's label is None."""
    coverage: float | None = None
    """The share of images, in 0..1, whose true class is to be in a record's `labels`; None gives no such sets."""
    probabilities: bool = False
    """Whether records have the probability of every class."""
    sort: SortName | None = None
    """The order of the records, which are given after the last image; None is that of the inputs."""
    only: str | None = None
    """`uncertain=N`: only the records of the N most uncertain images, these first unless `sort` says another order."""
    precision: Precision = "float32"
    """Numeric precision of the computation."""
    image_size: AnySize | None = None
    """Height and width; None is that of the training."""
    engine: Literal["auto", "litert", "keras", "ray"] = "auto"
    """What runs the model; `auto` is LiteRT where it can; `ray`: that on the workers of Ray, of the cluster that the
    process is connected to, or else of the one at `ray_address`."""
    shard: str | None = None
    """I/N for part I, from 0, of N equal parts of the inputs; None is all."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster, or auto; None is what RAY_ADDRESS says, else a Ray of its own."""
    ray_workers: int | None = None
    """How many label; None is one per processor, or per GPU."""
    output: str | None = None
    """A file for the records, which appears when it is complete; a journal beside it lets an interrupted one
    resume."""
    output_format: OutputFormat | None = None
    """The format of that file; None is what its suffix says."""
    sheet: str | None = None
    """A PNG that shows the first images of which records are given, with label and score."""
    sort_into: str | None = None
    """A folder that gets the images of which records are given, in a folder per label; `unsure` has those without."""
    sort_into_by: PlacingMode = "copy"
    """How they come there."""
    overwrite: bool = False
    """Whether an output or a sheet that exists is replaced, and unfinished work in `sort_into` forgotten."""
    resume: bool = False
    """Whether to resume an interrupted output; without `sort` and `only`, the records that it holds are not given
    again."""
    explain: str | None = None
    """A folder that gets a picture per image of what decided, before its record is given."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """What shows every photo."""


@dataclass(frozen=True)
class EmbedRequest(StreamRequest):
    """Give feature vectors of images, what the classifier layer of a run gets: a record per image, in order."""

    run: str | Path
    """A run directory, or its best.keras."""
    inputs: Iterable[str | Path] = ()
    """Files, folders (recursive), globs, and `-` for paths on standard input."""
    _: KW_ONLY
    image_size: AnySize | None = None
    """Height and width; None is that of the training."""
    engine: EngineChoice = "auto"
    """What runs the model; `auto` is LiteRT where it can."""
    output: str | None = None
    """A .npz or .parquet file for all vectors, which appears when it is complete; a journal beside it lets an
    interrupted one resume."""
    overwrite: bool = False
    """Whether an output that exists is replaced."""
    resume: bool = False
    """Whether to resume an interrupted output; the records that it holds are not given again."""


@dataclass(frozen=True)
class ExplainRequest(StreamRequest):
    """Explain images: a record per image, in order, of what every position of the feature map adds to the logits."""

    run: str | Path
    """A run directory, or its best.keras."""
    inputs: Iterable[str | Path] = ()
    """Files, folders (recursive), globs, and `-` for paths on standard input."""
    _: KW_ONLY
    classes: Sequence[str] = ()
    """Names of classes to explain beside the predicted one and its runner-up."""
    bands: str | Sequence[int] = ""
    """Which ones of an image's bands, from 1, pictures show as red, green and blue, or which one as grey: "3,2,1"."""
    write: bool = False
    """Whether pictures, sheets and numbers are written, too."""
    output_dir: str | None = None
    """The folder for them; None is `explain` beside the model file."""
    pictures: int = 1000
    """Images that get a picture of their own, at most."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """What shows every photo."""


@dataclass(frozen=True)
class WeightsRequest(Request):
    """Show what a head has learned about positions."""

    run: str | Path
    """A run directory, or its best.keras."""
    _: KW_ONLY
    classes: Sequence[str] = ()
    """Names of classes; none are all."""
    write: bool = False
    """Whether a picture and the numbers are written, too."""
    output_dir: str | None = None
    """The folder for them; None is `explain` beside the model file."""
    screen: Screen | None = field(default=None, repr=False, compare=False)
    """What shows the picture."""
    stop: StopRequest | None = field(default=None, repr=False, compare=False)
    """Whether a signal asked to stop, where the caller handles signals."""


@dataclass(frozen=True)
class FetchWeightsRequest(Request):
    """Download Keras' ImageNet weights of backbones."""

    backbones: Sequence[str]
    """Their names."""
    _: KW_ONLY
    output_dir: str | Path | None = None
    """The folder, from which they are carried elsewhere; None is Keras' cache."""
    overwrite: bool = False
    """Whether files that are there are downloaded anew."""


@dataclass(frozen=True)
class AddWeightsRequest(Request):
    """Add a file to the ImageNet weights of this machine, after it was found to fit the backbone."""

    backbone: str
    """Its name."""
    file: str | Path
    """Keras' release, or another `.h5` or `.keras` file, or a run, with weights that fit."""
    _: KW_ONLY
    overwrite: bool = False
    """Whether other weights that are there are replaced."""


@dataclass(frozen=True)
class ExportRequest(Request):
    """Write a run's best model in other formats, each loaded again by its own runtime and compared with the run."""

    run: str | Path
    """A run directory, or its best.keras."""
    to: str | Sequence[str]
    """keras, onnx, litert, saved_model: one, or several, with commas between or one by one."""
    _: KW_ONLY
    quantize: Literal["int8", "float16"] | None = None
    """How numbers are stored for LiteRT; the accuracy that it costs is in the record."""
    logits: bool = False
    """Whether LiteRT gives logits; else probabilities, which MediaPipe and others expect."""
    fixed_batch: int | None = None
    """The only number of images that LiteRT takes at a time; None is any."""
    pixel_layout: Literal["nhwc", "nchw"] = "nhwc"
    """Of the pixels that ONNX takes: (batch, height, width, channels), or (batch, channels, height, width)."""
    layout: Literal["plain", "triton", "tf-serving"] = "plain"
    """Whether the exports are also arranged as a model server expects them."""
    resize: Literal["outside", "inside"] = "outside"
    """`inside`: the model takes images of any size and resizes them itself, as wisesr does; not for LiteRT."""
    image_size: AnySize | None = None
    """Height and width; None is the size of the training."""
    data: str | Path | None = None
    """Compare on this image folder; None is the run's validation split, else test, else train."""
    output_dir: str | Path | None = None
    """The folder; None is `export` beside the model file."""
    overwrite: bool = False
    """Whether earlier exports are replaced."""


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
    """A file with a class name per line; None takes the image folder's, or makes names up."""
    overwrite: bool = False
    """Whether the run of this name is replaced."""


@dataclass(frozen=True)
class CompareRequest(Request):
    """Train heads over seeds, all else equal, and compare them: mean, spread, paired difference, cost."""

    source: str | Path
    """A YAML config or an image folder."""
    settings: Settings | None = None
    """Values laid over the config, by key; `name` is that of the comparison's folder in `output_dir`."""
    _: KW_ONLY
    heads: str | Sequence[str] = "gap,wise,flatten"
    """Each as `wise` or `wise:pooling=valid`; the others are compared to the first one."""
    seeds: int | str | Sequence[int] | None = None
    """How many, 3 being 0, 1 and 2; or which ones, as "0,5,7" or a sequence; None is 3, with `folds` 1."""
    folds: int | None = None
    """Cross-validation: every head is trained once for each of that many parts of the training images, which is held
    out and evaluated on; None evaluates on the test or validation images."""
    label_issues: bool = False
    """Whether to list labels that look wrong, from the predictions for held-out folds."""
    resume: bool = False
    """Whether to resume the comparison of this name; what is trained is not trained again."""


@dataclass(frozen=True)
class SummarizeRequest(Request):
    """Count parameters, FLOPs and sizes of backbones with heads, a row each."""

    source: str | Path | None = None
    """A config, an image folder or a run directory; None is MobileNetV2 at 224 pixels."""
    settings: Settings | None = None
    """Values laid over the config, by key."""
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
