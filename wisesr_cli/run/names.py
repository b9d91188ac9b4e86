"""File names in run directories, evaluations, exports, explanations and comparisons. No Keras.

No other module contains the name of a file that wisesr writes into one of these.
"""

from __future__ import annotations

from wisesr_cli.model_files.info import BEST, MODEL_INFO, WRITTEN

LITERT = "best.tflite"
UPGRADED = "upgraded.keras"  # made by `wisesr upgrade`; fine-tuning starts from it
CONFIG = "config.yaml"
CLASSES = "classes.json"
SPLITS = "splits.csv"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
CARD = "README.md"  # the model card
CALIBRATION = "calibration.json"  # see `evaluation.coverage`
TRACKED = "trackers.json"  # its ids in experiment trackers
STATE = "state"
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = ".lock"

# In the folder of an evaluation, next to its metrics.
PER_CLASS = "per_class.csv"
CONFUSION_MATRIX = "confusion_matrix.csv"
PREDICTIONS = "predictions.csv"
EVALUATION_FILES = (METRICS, PER_CLASS, CONFUSION_MATRIX, PREDICTIONS)
REPORT = "report.html"  # only on request
LABEL_ISSUES = "label_issues.csv"  # only on request; also in the folder of a comparison
LABEL_ISSUES_SHEET = "label_issues.png"
PROBABILITIES = "probabilities.npy"  # of a held-out fold
EVALUATION_EXTRAS = (REPORT, LABEL_ISSUES, LABEL_ISSUES_SHEET, PROBABILITIES)

# In the folder of explanations, by default `EXPLAIN`.
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

# In the folder of exports, by default `EXPORT`.
EXPORT = "export"
EXPORT_RECORD = "export.json"
EXPORT_README = "README.md"
LABELS, THRESHOLDS = "labels.txt", "thresholds.txt"  # the latter if images may have several labels
EXPORT_EXTRAS = (LABELS, THRESHOLDS, EXPORT_README)
EXPORTED_MODELS = {
    ("keras", None): "model.keras",
    ("onnx", None): "model.onnx",
    ("litert", None): "model.tflite",
    ("litert", "int8"): "model-int8.tflite",
    ("litert", "float16"): "model-float16.tflite",
    ("saved_model", None): "saved_model",
}
SAVED_MODEL_EXTRAS = "assets.extra"  # TensorFlow's folder for files of other programs
SAVED_MODEL_FILES = (
    *("saved_model.pb", "fingerprint.pb", "variables/variables.index", "variables/variables.data-*"),
    *(f"{SAVED_MODEL_EXTRAS}/{name}" for name in (MODEL_INFO, LABELS)),
)
SAVED_MODEL_FOLDERS = ("variables", "assets", SAVED_MODEL_EXTRAS)
# Copies of these files in the layout that a model server expects: the allowed contents of such a folder.
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

# In the folder of a comparison, next to a run directory per head and seed; the first is written by the first training.
TRAININGS = "trainings.json"
COMPARISON = "comparison.json"
COMPARISON_TABLE = "comparison.csv"
COMPARISON_TEXT = "comparison.md"
COMPARISON_FILES = (COMPARISON, COMPARISON_TABLE, COMPARISON_TEXT)
OUT_OF_FOLD = "out_of_fold.csv"  # with --folds
OUT_OF_FOLD_PROBABILITIES = "out_of_fold.npz"
FOLDS_FILES = (OUT_OF_FOLD, OUT_OF_FOLD_PROBABILITIES)
ACCURACY_PICTURE = "accuracy.png"

# In the folder of plots. Those with a placeholder, for what was evaluated, are written by each evaluation.
LEARNING_CURVES = "learning_curves.png"
CONFUSION_PICTURE = "confusion_matrix-{}.png"
RELIABILITY_PICTURE = "reliability-{}.png"
EVALUATION_PICTURES = (CONFUSION_PICTURE, RELIABILITY_PICTURE)

RESULT_FOLDERS = (PLOTS, EXPLAIN, EXPORT, "evaluate-*")  # other commands write into them while a run trains

# The files of a run that `--overwrite` always removes, besides its states; it removes other files only if recorded. The
# classes go last: they mark the folder as a run, so that another process can finish what a killed one began.
RUN_FILES = (
    *(f"{PLOTS}/{LEARNING_CURVES}", LITERT, BEST, UPGRADED, CONFIG, SPLITS, ENVIRONMENT, HISTORY, METRICS, TRACKED),
    *(CALIBRATION, CARD, WRITTEN, CLASSES),
)
