#!/bin/sh
# Packages of torch's ahead-of-time compiler look neither at the shape nor at the strides they are given. Needs g++.
# Seen: compiled for 4 rows, given 8: answers 4; a transposed view: other numbers.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 setuptools==80.9.0
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import sys

import torch


class Scale(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.relu(x) + 1


print("torch", torch.__version__)
print("believed: a compiled package takes what it was compiled for, or raises")
model = Scale().eval()
program = torch.export.export(model, (torch.randn(4, 8),))
package = torch._inductor.aoti_compile_and_package(program, package_path="scale.pt2")
run = torch._inductor.aoti_load_package(package)
eight = torch.randn(8, 8)
rows = len(run(eight))
print("compiled for 4 rows, given 8: answers", rows)
view = torch.randn(8, 4).t()
same = torch.equal(run(view), model(view))
print("a transposed view of the right shape: as the model answers:", same, "; made contiguous:",
      torch.equal(run(view.contiguous()), model(view)))
print("true: nothing is checked; compare dtype, shape and strides before each call")
sys.exit(0 if rows == 4 and not same else "this has changed")
PY
