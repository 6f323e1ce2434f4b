#!/bin/sh
# DLPack has no flag for lazy negation, and torch exports such tensors all the same.
# Seen: tensor -2.0; through DLPack: numpy 2.0, torch 2.0; conjugated: refused; Tensor.numpy(): refused.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)
print("believed: what DLPack cannot express is refused, as torch refuses lazily conjugated tensors")
lazy = torch.tensor([[1 + 2j]]).conj().imag
print("tensor:", lazy.item(), "negated lazily:", lazy.is_neg())
to_numpy, to_torch = np.from_dlpack(lazy).item(), torch.from_dlpack(lazy).item()
print("the same through DLPack: numpy", to_numpy, "torch", to_torch)
try:
    torch.tensor([1 + 2j]).conj().__dlpack__()
    conjugated = "exported"
except BufferError as error:
    conjugated = f"refused: {error}"
print("a lazily conjugated tensor is", conjugated)
try:
    lazy.numpy()
    direct = "given"
except RuntimeError:
    direct = "refused"
print("Tensor.numpy() of the negated one is", direct)
print("true: the sign is lost without a word; call resolve_neg() before an export")
expected = (lazy.item(), to_numpy, to_torch, conjugated[:7], direct) == (-2.0, 2.0, 2.0, "refused", "refused")
sys.exit(0 if expected else "this has changed")
PY
