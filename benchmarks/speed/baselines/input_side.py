"""Prints the images per second that the input side of `wisesr train` delivers, without training.

Arguments: config, cache (memory or none), number of epochs. Two threads fetch batches, as in training.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.training.examples import open_examples

loaded = load_config(Path(sys.argv[1]), [parse_set(f"data.cache={sys.argv[2]}")])
examples = open_examples(loaded.config, Silent())
keras_start.start("cpu")
from wisesr_cli.training.batches import Batches  # noqa: E402

labels, epochs = examples.labels("train"), int(sys.argv[3])
batch_size = loaded.config.train.batch_size
batches = Batches(examples.train, labels, classes=len(examples.index.class_names), batch_size=batch_size, seed=0)
with ThreadPoolExecutor(2) as threads:
    started = time.perf_counter()
    for epoch in range(epochs):
        batches.begin_epoch(epoch)
        images = sum(len(batch[0]) for batch in threads.map(batches.__getitem__, range(batches.num_batches)))
    print("images_per_second", epochs * images / (time.perf_counter() - started))
examples.close()
