"""The first training step with Keras alone: MobileNetV2, AdamW. Arguments: image folder, side in pixels."""

import sys

import keras

folder, side = sys.argv[1], int(sys.argv[2])
train = keras.utils.image_dataset_from_directory(
    folder, label_mode="categorical", image_size=(side, side), batch_size=32, seed=0
)
pixels = keras.Input((side, side, 3))
images = keras.layers.RandomFlip("horizontal")(pixels)
images = keras.layers.Rescaling(1 / 127.5, -1)(images)
backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(side, side, 3))
vector = keras.layers.GlobalAveragePooling2D()(backbone(images))
model = keras.Model(pixels, keras.layers.Dense(len(train.class_names))(vector))
model.compile(
    optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
    loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train, steps_per_epoch=1, epochs=1, verbose=0)
