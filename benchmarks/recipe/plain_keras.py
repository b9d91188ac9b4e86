"""Classifies photos as the transfer-learning guide of Keras does, and prints accuracies and seconds as JSON.

Arguments: folder with train/, validation/ and test/; backbone, which must take pixels in [-1, 1]; file of its weights,
without the top; side in pixels; epochs with a frozen backbone; epochs of fine-tuning; seed.

From https://keras.io/guides/transfer_learning: a random flip and a rotation, batch norm always in inference mode, GAP,
dropout 0.2, Adam at 1e-3, then everything at 1e-5, batch size 64.
"""

import json
import sys
import time

import keras

folder, name, weights = sys.argv[1:4]
side, frozen_epochs, tuning_epochs, seed = map(int, sys.argv[4:8])
started = time.perf_counter()
keras.utils.set_random_seed(seed)
data = {
    split: keras.utils.image_dataset_from_directory(
        f"{folder}/{split}", image_size=(side, side), batch_size=64, shuffle=split == "train", seed=seed, verbose=False
    )
    for split in ("train", "validation", "test")
}
classes = len(data["train"].class_names)
train, validation, test = (split.prefetch(2) for split in data.values())
augmentation = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)])
backbone = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(side, side, 3))
backbone.load_weights(weights)
backbone.trainable = False
inputs = keras.Input((side, side, 3))
features = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(augmentation(inputs)), training=False)
features = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(features))
model = keras.Model(inputs, keras.layers.Dense(classes)(features))


def fit(learning_rate: float, epochs: int) -> dict[str, list[float]]:
    """Train the layers that are not frozen, and return the history."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    return model.fit(train, validation_data=validation, epochs=epochs, verbose=0).history


histories = [fit(1e-3, frozen_epochs)]
backbone.trainable = True
if tuning_epochs:
    histories.append(fit(1e-5, tuning_epochs))
seconds = time.perf_counter() - started
answer = {split: model.evaluate(images, verbose=0)[1] for split, images in (("validation", validation), ("test", test))}
answer["train"] = model.evaluate(train, verbose=0)[1]
answer["in_training"] = histories[-1]["accuracy"][-1]
answer["by_epoch"] = [value for history in histories for value in history["val_accuracy"]]
print(json.dumps({**answer, "seconds": seconds}))
