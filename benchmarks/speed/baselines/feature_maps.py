"""Prints the images per second at which `wisesr train` computes the feature maps of a frozen backbone.

Argument: config. The images are decoded before, and the backbone is compiled in a round that does not count.
"""

import sys
import time
from pathlib import Path

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.training.examples import open_examples

SETTINGS = ("data.cache=memory", "augment=none", "train.phases=[{epochs: 1, freeze: backbone}]")

loaded = load_config(Path(sys.argv[1]), [parse_set(setting) for setting in SETTINGS])
examples = open_examples(loaded.config, Silent())
device = keras_start.start("auto", precision=loaded.config.train.precision)
from wisesr_cli.training.trainer import Trainer  # noqa: E402

examples.shared_maps = {}
features = Trainer(loaded.config, examples, device).frozen_features(loaded.config.phases[0], 0, Silent())
if features is None or features.train(0).place == "disk":
    raise SystemExit("no room in memory for the feature maps")
examples.shared_maps.clear()
started = time.perf_counter()
features.start(0, Silent())
seconds = time.perf_counter() - started
print("images_per_second", (len(examples.train) + len(examples.validation or ())) / seconds)
examples.close()
