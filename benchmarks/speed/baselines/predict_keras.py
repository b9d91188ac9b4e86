"""Labels one photo, or a folder of photos, as a plain Keras program does: predict_keras.py MODEL PATH."""

import sys
from pathlib import Path

import keras

model = keras.models.load_model(sys.argv[1])
path = Path(sys.argv[2])
size = model.input_shape[1:3]
if path.is_dir():
    photos = keras.utils.image_dataset_from_directory(path, labels=None, image_size=size, batch_size=32, shuffle=False)
    names = photos.file_paths
else:
    photos = keras.utils.img_to_array(keras.utils.load_img(path, target_size=size))[None]
    names = [str(path)]
logits = model.predict(photos, verbose=0)
for name, probabilities in zip(names, keras.ops.convert_to_numpy(keras.ops.softmax(logits)), strict=True):
    best = probabilities.argsort()[::-1][:5]
    print(name, *(f"{label}:{probabilities[label]:.4f}" for label in best), flush=True)
