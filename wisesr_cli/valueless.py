"""Builds Keras models without values: right in shapes and counts, quick, and without the memory of their weights."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras


def build_without_values(build: Callable[[], Any]) -> Any:
    """Return what `build` makes of Keras layers, with variables that hold no values; only shapes and counts are right.

    It runs in a thread of its own, with Keras' default precision: Keras remembers such variables per thread, and would
    give all of them values at the next model that this thread builds (gigabytes, minutes).
    """

    def build_in_scope() -> Any:
        with keras.StatelessScope(initialize_variables=False):
            return build()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(build_in_scope).result()
