"""Trains the classifier of wisesr with Keras' own loop, and prints the seconds of every epoch.

Arguments: file of arrays, epochs, model file. Decoded images are in memory; the model and augmentation are those of
`wisesr train`, everything else is what a Keras user writes: AdamW, validation, ModelCheckpoint to keep the best model.
"""

import sys
import time

import keras
import numpy as np

from wisesr_cli.config.schema import Config
from wisesr_cli.models.build import build_classifier
from wisesr_cli.training.augmentation import build_augmentation

with np.load(sys.argv[1]) as arrays:
    train, validation = arrays["train"], arrays["validation"]
    train_labels, validation_labels = arrays["train_labels"], arrays["validation_labels"]
epochs, best = int(sys.argv[2]), sys.argv[3]


class Clock(keras.callbacks.Callback):
    """Prints the seconds of an epoch, including everything that belongs to it."""

    def on_epoch_begin(self, epoch, logs=None):
        """Note the start time."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Print the elapsed time; this callback runs after the checkpoint."""
        print("epoch_seconds", time.perf_counter() - self.started)


config = Config()
classes, size = int(train_labels.max()) + 1, train.shape[1:3]
pixels = keras.Input((*size, 3), dtype="uint8")
images = keras.layers.Rescaling(1.0)(pixels)
for layer in build_augmentation(config.augmentation, seed=0):
    images = layer(images)
classifier = build_classifier(config.model, image_size=size, classes=classes)
model = keras.Model(pixels, classifier.model(images))
model.compile(
    optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
    loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(
    train,
    keras.utils.to_categorical(train_labels, classes),
    validation_data=(validation, keras.utils.to_categorical(validation_labels, classes)),
    batch_size=32,
    epochs=epochs,
    callbacks=[keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True), Clock()],
    verbose=0,
)
