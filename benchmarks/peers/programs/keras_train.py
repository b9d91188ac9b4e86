"""Trains as Keras' guide to image classification does: keras_train.py DATA BACKBONE SIDE EPOCHS BATCH FOLDER [hub].

A backbone of keras.applications takes the place of the guide's small network; with `hub`, KerasHub's image
classifier with the backbone that has the arguments of ResNet50.
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf

data, backbone_name, side, epochs, batch, folder, *kind = sys.argv[1:]
size = (int(side), int(side))
options = {"image_size": size, "batch_size": int(batch), "verbose": False}
train = keras.utils.image_dataset_from_directory(Path(data) / "train", seed=1337, **options)
validation = keras.utils.image_dataset_from_directory(Path(data) / "val", shuffle=False, **options)
classes = len(train.class_names)
augmentation = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]


def augmented(images, labels):
    """Return a batch with random flips and rotations."""
    for layer in augmentation:
        images = layer(images, training=True)
    return images, labels


train = train.map(augmented, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
validation = validation.prefetch(tf.data.AUTOTUNE)

pixels = keras.Input((*size, 3))
images = keras.layers.Rescaling(1.0 / 255)(pixels)
if kind:
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        use_pre_activation=False,
        image_shape=(*size, 3),
    )
    classifier = keras_hub.models.ImageClassifier(backbone=backbone, num_classes=classes, activation=None)
    model = keras.Model(pixels, classifier(images))
else:
    backbone = getattr(keras.applications, backbone_name)(include_top=False, weights=None, input_shape=(*size, 3))
    vector = keras.layers.GlobalAveragePooling2D()(backbone(images))
    model = keras.Model(pixels, keras.layers.Dense(classes)(keras.layers.Dropout(0.25)(vector)))
model.compile(
    optimizer=keras.optimizers.Adam(3e-4),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
)
Path(folder).mkdir(parents=True, exist_ok=True)
model.fit(
    train,
    epochs=int(epochs),
    validation_data=validation,
    callbacks=[
        keras.callbacks.ModelCheckpoint(Path(folder) / "best.keras"),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print("epoch", epoch + 1, flush=True)),
    ],
    verbose=0,
)
