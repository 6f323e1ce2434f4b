#!/bin/sh
# Tensors loaded by safetensors.torch are the file itself, not a copy of it.
# Seen: loaded as 1.0; after the file was written to: torch 7.0, numpy 1.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import os
import sys

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

COUNT = 1 << 20
print("safetensors", safetensors.__version__, "torch", torch.__version__)
print("believed: after load_file the tensors are independent of the file")
safetensors.torch.save_file({"w": torch.ones(COUNT)}, "weights.safetensors")
mapped = safetensors.torch.load_file("weights.safetensors")["w"]
copied = safetensors.numpy.load_file("weights.safetensors")["w"]
with open("weights.safetensors", "r+b") as file:  # the same size, in place, as rsync --inplace or cp does
    file.seek(os.path.getsize("weights.safetensors") - 4 * COUNT)
    file.write(np.full(COUNT, 7, np.float32).tobytes())
print("loaded as 1.0, and after the file was written to: torch", mapped[0].item(), "numpy", copied[0].item())
print("true: torch's tensors are a mapping of the file (numpy's are a copy): write new weights beside, then rename")
sys.exit(0 if (mapped[0].item(), copied[0].item()) == (7.0, 1.0) else "this has changed")
PY
