"""Goes over an image folder as Keras users do, and prints the seconds of the first pass and of three later ones.

Usage: keras_images.py FOLDER SIDE SMALL_FOLDER. The first pass is timed from listing the folder to the last batch;
before it, TensorFlow is loaded and a small folder is read.
"""

import json
import sys
import time

import keras


def seconds(folder, side, later):
    started = time.perf_counter()
    batches = keras.utils.image_dataset_from_directory(folder, image_size=(side, side), batch_size=32, verbose=False)
    passes = []
    for _ in range(1 + later):
        for _ in batches:
            pass
        passes.append(time.perf_counter() - started)
        started = time.perf_counter()
    return passes


folder, side, small = sys.argv[1:]
seconds(small, int(side), 1)
print(json.dumps(seconds(folder, int(side), 3)))
