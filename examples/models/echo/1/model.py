"""The smallest model: y = x, any number of rows and columns of float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]


def build() -> Callable[[Arrays], Arrays]:
    """Called once when the model is loaded; what it returns is called once per batch."""
    return lambda inputs: {"y": inputs["x"]}
