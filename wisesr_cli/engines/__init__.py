"""Running a model: by LiteRT without TensorFlow, or by Keras."""
