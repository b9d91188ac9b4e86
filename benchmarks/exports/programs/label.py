"""Labels images with an exported model in one of its users' runtimes: python label.py RUNTIME MODEL IMAGES.npy.

The images are uint8 (images, height, width, RGB); it prints a JSON list with the index of each image's best class. It
does not use wisesr, and exits with 3 if the runtime cannot be imported. To add a runtime: a function, and a row in
`RUNTIMES`.
"""

import json
import sys

import numpy as np

ABSENT = 3


def keras(model, images):
    import keras

    network = keras.models.load_model(model, compile=False)
    return [network(pixels, training=False) for pixels in images]


def saved_model(model, images):
    import tensorflow

    network = tensorflow.saved_model.load(model)
    return [network.serve(pixels).numpy() for pixels in images]


def litert(model, images):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model).get_signature_runner()
    return [next(iter(run(pixels=pixels).values())) for pixels in images]


def mediapipe(model, images):
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_path=model))
    scores = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for pixels in images:
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels[0].astype(np.uint8)))
            found = classifier.classify(image).classifications[0].categories
            scores.append([category.score for category in sorted(found, key=lambda category: category.index)])
    return scores


def onnxruntime(model, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    return [session.run(None, {"pixels": pixels})[0] for pixels in images]


def opencv(model, images):
    import cv2

    network = cv2.dnn.readNetFromONNX(model)
    scores = []
    for pixels in images:
        network.setInput(cv2.dnn.blobFromImage(pixels[0]))
        scores.append(network.forward())
    return scores


def openvino(model, images, **settings):
    import openvino

    network = openvino.Core().compile_model(model, "CPU", settings)  # else computes in bfloat16 if the CPU can
    return [network(pixels)[0] for pixels in images]


def openvino_float32(model, images):
    return openvino(model, images, INFERENCE_PRECISION_HINT="f32")


RUNTIMES = {
    function.__name__: function
    for function in (keras, saved_model, litert, mediapipe, onnxruntime, opencv, openvino, openvino_float32)
}

if __name__ == "__main__":
    name, model, file = sys.argv[1:]
    images = [pixels[None] for pixels in np.load(file).astype(np.float32)]
    try:
        scores = RUNTIMES[name](model, images)
    except ImportError as error:
        print(error, file=sys.stderr)
        raise SystemExit(ABSENT) from None
    print(json.dumps([int(np.asarray(row).argmax()) for row in scores]))
