"""``tensorwire describe``: a model's inputs, outputs and limits."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click
import numpy as np

from ....codec import Description, Kind, TensorSpec
from ..group import Command
from ..inputs import describe_spec
from ..options import Server, json_option, model_argument, server_options, version_option
from ..outputs import console, echo_json, say, table


@click.command(
    "describe",
    cls=Command,
    examples=(
        "tensorwire describe classifier",
        "tensorwire describe classifier --json",
        "tensorwire describe classifier --url tw://gpu1 --key-file robot.key",
    ),
)
@model_argument()
@version_option
@json_option
@server_options
def command(model: str, model_version: str, server: Server, as_json: bool) -> None:
    """Show what MODEL takes and gives, and where it runs."""
    with server.connect() as client:
        about = client.describe(model, version=model_version)
    if as_json:
        echo_json(_as_dict(about))
    else:
        _print(about)


def _print(about: Description) -> None:
    batch = f"at most {about.max_batch} rows" if about.max_batch else "none: every call runs alone"
    rows = [("model", about.model), ("version", about.version), ("backend", about.backend)]
    rows += [("runs", f"{about.engine} on {about.device}"), ("batch", batch)]
    rows += [("input", _with_hints(about, spec)) for spec in about.inputs]
    rows += [("input, optional", _with_hints(about, spec)) for spec in about.optional]
    rows += [("output", describe_spec(spec)) for spec in about.outputs]
    if about.labels:
        rows.append(("labels", f"{len(about.labels)}: {', '.join(about.labels[:3])}, ..."))
    console().print(table(("", ""), rows))
    say(f"try: {suggestion(about)}")


def suggestion(about: Description) -> str:
    """Return a call of the model that can be typed as it stands, but for the name of a photo."""
    example = " ".join(f"--input {shlex.quote(f'{spec.name}={_example(about, spec)}')}" for spec in about.inputs)
    return f"tensorwire send {shlex.quote(about.model)} {example}"


def _with_hints(about: Description, spec: TensorSpec) -> str:
    hints = about.images.get(spec.name)
    if hints is None:
        return describe_spec(spec)
    height, width = hints.size
    return f"{describe_spec(spec)}, from photos of {width} x {height} pixels"


def _example(about: Description, spec: TensorSpec) -> str:
    """Return a value that can be sent: random ones are made for dense inputs alone."""
    if spec.name in about.images:
        return "@photo.jpg"
    if spec.kind is Kind.DENSE:
        return "random"
    shape = [1 if size < 0 else size for size in spec.shape]
    if spec.kind is Kind.STRING:
        return json.dumps(np.full(shape, "text", object).tolist())
    item = np.ones([2, *shape[1:]], np.int64)
    return json.dumps([item.tolist()] * shape[0])


def _as_dict(about: Description) -> dict[str, Any]:
    return {
        "model": about.model,
        "version": about.version,
        "backend": about.backend,
        "engine": about.engine,
        "device": about.device,
        "max_batch": about.max_batch,
        "inputs": [_spec_as_dict(spec) for spec in about.inputs],
        "outputs": [_spec_as_dict(spec) for spec in about.outputs],
        "images": {
            name: {
                "size": list(hints.size),
                "resize": hints.resize,
                "mean": list(hints.mean),
                "std": list(hints.std),
                "layout": hints.layout,
            }
            for name, hints in about.images.items()
        },
        "labels": list(about.labels),
        "optional": [_spec_as_dict(spec) for spec in about.optional],
    }


def _spec_as_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.name, "kind": spec.kind.name.lower(), "shape": list(spec.shape)}
