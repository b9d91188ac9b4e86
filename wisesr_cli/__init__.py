"""wisesr: train, evaluate, explain and ship image classifiers that keep what global average pooling throws away.

    import wisesr_cli

    result = wisesr_cli.train("photos", {"train.epochs": 5, "model.head.name": "wise"})
    print(wisesr_cli.evaluate(result.run_dir).metrics.top1_accuracy)
    for prediction in wisesr_cli.predict(result.run_dir, ["holiday.jpg"]):
        print(prediction.label, prediction.score)

Nothing is imported before it is used: Keras is started by the first call that needs it.
"""

# Nothing is imported here, not even from `typing` or `__future__`: this runs before `__main__` removes the current
# folder from the path, and would import from there.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wisesr_cli.api import (
        add_weights,
        check,
        compare,
        doctor,
        embed,
        evaluate,
        explain,
        export,
        fetch_weights,
        init,
        init_from_sample,
        list_runs,
        list_samples,
        list_weights,
        load_config,
        position_weights,
        predict,
        remove_runs,
        summarize,
        train,
        upgrade,
        weights_paths,
    )
    from wisesr_cli.layers import PositionWeightedPooling2D, TileAveragePooling2D
    from wisesr_cli.version import __version__

__all__ = [
    "PositionWeightedPooling2D",
    "TileAveragePooling2D",
    "__version__",
    "add_weights",
    "check",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "explain",
    "export",
    "fetch_weights",
    "init",
    "init_from_sample",
    "list_runs",
    "list_samples",
    "list_weights",
    "load_config",
    "position_weights",
    "predict",
    "remove_runs",
    "summarize",
    "train",
    "upgrade",
    "weights_paths",
]

_HOMES = {
    "PositionWeightedPooling2D": "wisesr_cli.layers",
    "TileAveragePooling2D": "wisesr_cli.layers",
    "__version__": "wisesr_cli.version",
}


def __getattr__(name: str) -> "Any":
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'wisesr_cli' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "wisesr_cli.api")), name)
