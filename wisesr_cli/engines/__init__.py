"""Engines that run a model: LiteRT without TensorFlow, or Keras."""
