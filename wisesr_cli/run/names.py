"""File names in run directories, evaluations, exports, explanations and comparisons. No Keras.

No other module spells the name of a file that wisesr writes into one of these.
"""

from __future__ import annotations

from wisesr_cli.model_files.info import BEST, MODEL_INFO

LITERT = "best.tflite"
UPGRADED = "upgraded.keras"  # what `wisesr upgrade` made, and fine-tuning starts from
CONFIG = "config.yaml"
CLASSES = "classes.json"
SPLITS = "splits.csv"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
CARD = "README.md"  # the model card
CALIBRATION = "calibration.json"  # see `evaluation.coverage`
TRACKED = "trackers.json"  # which runs of experiment trackers it is
STATE = "state"
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
WRITTEN = ".written.jsonl"  # see `run.written`

# In the folder of an evaluation, beside its metrics.
PER_CLASS = "per_class.csv"
CONFUSION_MATRIX = "confusion_matrix.csv"
PREDICTIONS = "predictions.csv"
EVALUATION_FILES = (METRICS, PER_CLASS, CONFUSION_MATRIX, PREDICTIONS)
REPORT = "report.html"  # only where it was asked for
LABEL_ISSUES = "label_issues.csv"  # only where they were asked for, also in the folder of a comparison
LABEL_ISSUES_SHEET = "label_issues.png"
PROBABILITIES = "probabilities.npy"  # of a fold that was held out
EVALUATION_EXTRAS = (REPORT, LABEL_ISSUES, LABEL_ISSUES_SHEET, PROBABILITIES)

# In the folder of explanations, `EXPLAIN` unless another one is given.
EXPLAIN = "explain"
CONTRIBUTIONS = "contributions.npz"
EXPLANATIONS = "explanations.json"
EXPLANATIONS_TABLE = "explanations.csv"
EXPLAINED_PICTURE = "image-{:05}-{}.png"  # number and name of the image
EXPLAINED_SHEET = "contact_sheet-{:03}.png"
WEIGHTS_PICTURE = "weights.png"
WEIGHTS_NUMBERS = "weights.npz"
EXPLAINED_PATTERNS = (f"image-{'[0-9]' * 5}*-*.png", f"contact_sheet-{'[0-9]' * 3}*.png")
EXPLANATION_FILES = (CONTRIBUTIONS, EXPLANATIONS, EXPLANATIONS_TABLE, WEIGHTS_PICTURE, WEIGHTS_NUMBERS)

# In the folder of exports, `EXPORT` unless another one is given.
EXPORT = "export"
EXPORT_RECORD = "export.json"
EXPORT_README = "README.md"
LABELS, THRESHOLDS = "labels.txt", "thresholds.txt"  # the latter where an image may have several labels
EXPORT_EXTRAS = (LABELS, THRESHOLDS, EXPORT_README)
EXPORTED_MODELS = {
    ("keras", None): "model.keras",
    ("onnx", None): "model.onnx",
    ("litert", None): "model.tflite",
    ("litert", "int8"): "model-int8.tflite",
    ("litert", "float16"): "model-float16.tflite",
    ("saved_model", None): "saved_model",
}
SAVED_MODEL_EXTRAS = "assets.extra"  # where TensorFlow leaves room for files of others
SAVED_MODEL_FILES = (
    *("saved_model.pb", "fingerprint.pb", "variables/variables.index", "variables/variables.data-*"),
    *(f"{SAVED_MODEL_EXTRAS}/{name}" for name in (MODEL_INFO, LABELS)),
)
SAVED_MODEL_FOLDERS = ("variables", "assets", SAVED_MODEL_EXTRAS)
# The same files once more, as a model server expects them: what may be in such a folder.
SERVED = ("triton", "tf-serving")
_TRITON = (
    *("*/config.pbtxt", f"*/{LABELS}", "*/1/model.onnx"),
    *(f"*/1/model.savedmodel/{name}" for name in SAVED_MODEL_FILES),
)
FOLDERS = {  # the patterns of folders and of files in each
    EXPORTED_MODELS["saved_model", None]: (SAVED_MODEL_FOLDERS, SAVED_MODEL_FILES),
    "triton": (("*",), _TRITON),
    "tf-serving": (("*",), tuple(f"*/1/{name}" for name in SAVED_MODEL_FILES)),
}

# In the folder of a comparison, beside a run directory for every head and seed; the first with its first training.
TRAININGS = "trainings.json"
COMPARISON = "comparison.json"
COMPARISON_TABLE = "comparison.csv"
COMPARISON_TEXT = "comparison.md"
COMPARISON_FILES = (COMPARISON, COMPARISON_TABLE, COMPARISON_TEXT)
OUT_OF_FOLD = "out_of_fold.csv"  # with --folds
OUT_OF_FOLD_PROBABILITIES = "out_of_fold.npz"
FOLDS_FILES = (OUT_OF_FOLD, OUT_OF_FOLD_PROBABILITIES)
ACCURACY_PICTURE = "accuracy.png"

# In the folder of plots. Those with a gap, for what was evaluated, come with each evaluation.
LEARNING_CURVES = "learning_curves.png"
CONFUSION_PICTURE = "confusion_matrix-{}.png"
RELIABILITY_PICTURE = "reliability-{}.png"
EVALUATION_PICTURES = (CONFUSION_PICTURE, RELIABILITY_PICTURE)

RESULT_FOLDERS = (PLOTS, EXPLAIN, EXPORT, "evaluate-*")  # other commands write into them while a run trains

# What `--overwrite` removes of a run itself, beside its states; of all else, only what its record names. The classes go
# last: they mark the folder as a run, so that another process can remove what a killed one left.
RUN_FILES = (
    *(f"{PLOTS}/{LEARNING_CURVES}", LITERT, BEST, UPGRADED, CONFIG, SPLITS, ENVIRONMENT, HISTORY, METRICS, TRACKED),
    *(CALIBRATION, CARD, WRITTEN, CLASSES),
)
