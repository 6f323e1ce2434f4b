#!/bin/sh
# The last elements of a tensor that fill no vector register are computed by another formula.
# Seen: widths of 37: sigmoid 12; tanh, exp, relu 0 (AVX-512).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import sys

import torch

torch.manual_seed(0)
torch.set_num_threads(1)
print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
print("believed: equal rows of one batch get equal bits from an element-wise function")
counts = {}
for name, function in (("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("exp", torch.exp), ("relu", torch.relu)):
    differ = 0
    for width in range(3, 40):
        row = torch.randn(width)
        batch = function(row.repeat(5, 1))
        differ += any(not torch.equal(each, batch[0]) for each in batch)
    counts[name] = differ
print("widths of 37 at which five equal rows are not equal afterwards:", counts)
print("true: sigmoid's bits depend on a row's place in the batch (tanh's, exp's and relu's do not): compare with a tolerance")
sys.exit(0 if counts["sigmoid"] > 5 and counts["tanh"] == counts["exp"] == counts["relu"] == 0 else "this has changed")
PY
