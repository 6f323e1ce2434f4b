"""Weights as the libraries write them, in real files: what is in the module afterwards equals what was saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model

from tensorwire.server.engine.backends import LoadError, load_backend
from tensorwire.server.engine.backends.weights import load_weights
from tensorwire.server.engine.spec import load_spec
from tests.server.engine.helpers import model_folder

State = Mapping[str, torch.Tensor]


class Tied(torch.nn.Module):
    """Two names for one parameter, and a buffer that is a part of another."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        table = torch.rand(6)
        self.register_buffer("table", table)
        self.register_buffer("middle", table[2:4])


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(value, back) for (name, value), (again, back) in pairs)


def distinct(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Each name with memory of its own, as those write a state dict who do not know of ties."""
    return {name: value.clone() for name, value in module.state_dict().items()}


WRITERS: dict[str, Callable[[torch.nn.Module, Path], object]] = {
    "save_model": lambda module, path: save_model(module, str(path)),
    "save_file": lambda module, path: save_file(distinct(module), path),
    "torch.save": lambda module, path: torch.save(module.state_dict(), path),
    "torch.save, the form before zip": lambda module, path: torch.save(
        module.state_dict(), path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", ["w.safetensors", "W.SAFETENSORS", "pytorch_model.bin", "w.pt", "weights"])
@pytest.mark.parametrize("write", WRITERS)
def test_what_was_saved_is_loaded_whatever_the_files_name(tmp_path: Path, write: str, name: str) -> None:
    saved, module = Tied(1), Tied(2)
    WRITERS[write](saved, tmp_path / name)
    load_weights(module, tmp_path / name, tmp_path)
    assert same(module, saved)
    assert module.head.weight is module.embedding.weight


@pytest.mark.parametrize("write", [save_file, torch.save])
def test_shards_are_found_beside_their_index(tmp_path: Path, write: Callable[[State, Path], object]) -> None:
    saved, module = Tied(1), Tied(2)
    state = distinct(saved)
    del state["head.weight"]  # tied: in the file once
    shards = {"1-of-2": ["embedding.weight"], "2-of-2": ["head.bias", "table", "middle"]}
    (tmp_path / "w").mkdir()
    for shard, names in shards.items():
        write({name: state[name] for name in names}, tmp_path / "w" / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: at for at, names in shards.items() for name in names}}
    (tmp_path / "w" / "model.index.json").write_text(json.dumps(index, indent=2))
    load_weights(module, tmp_path / "w" / "model.index.json", tmp_path)
    assert same(module, saved)


def test_shards_of_an_index_that_is_a_link_lie_beside_the_link(tmp_path: Path) -> None:
    saved, module = Tied(1), Tied(2)
    (tmp_path / "blobs").mkdir()
    save_model(saved, str(tmp_path / "blobs" / "7f"))
    names = [name for name in saved.state_dict() if name not in {"head.weight", "middle"}]
    (tmp_path / "blobs" / "3c").write_text(json.dumps({"weight_map": dict.fromkeys(names, "shard")}))
    (tmp_path / "index.json").symlink_to("blobs/3c")
    (tmp_path / "shard").symlink_to("blobs/7f")
    load_weights(module, tmp_path / "index.json", tmp_path)
    assert same(module, saved)


def test_shards_stay_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_model(Tied(1), str(tmp_path / "outside"))
    for name in ("../outside", str(tmp_path / "outside")):
        (folder / "index.json").write_text(json.dumps({"weight_map": {"table": name}}))
        with pytest.raises(LoadError, match="leaves the model's folder"):
            load_weights(Tied(), folder / "index.json", folder)
    (folder / "index.json").write_text(json.dumps({"weight_map": {"table": "nowhere"}}))
    with pytest.raises(LoadError, match="there is no file 'nowhere'"):
        load_weights(Tied(), folder / "index.json", folder)


def test_shards_may_be_links_into_allowed_folders(tmp_path: Path) -> None:
    folder, store = tmp_path / "folder", tmp_path / "store"
    folder.mkdir()
    store.mkdir()
    saved, module = Tied(1), Tied(2)
    save_model(saved, str(store / "9f3a"))
    names = [name for name in saved.state_dict() if name not in {"head.weight", "middle"}]
    (store / "77aa").write_text(json.dumps({"weight_map": dict.fromkeys(names, "shard")}))
    (folder / "index.json").symlink_to(store / "77aa")
    (folder / "shard").symlink_to(store / "9f3a")
    with pytest.raises(LoadError, match="'shard' is a link that leaves the model's folder"):
        load_weights(module, folder / "index.json", folder)
    load_weights(module, folder / "index.json", folder, link_roots=[store])
    assert same(module, saved)


# ---- a part of what a file holds


def checkpoint(tmp_path: Path, module: torch.nn.Module) -> Path:
    """What training loops write."""
    optimizer = torch.optim.Adam(module.parameters())
    torch.save({"epoch": 3, "model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_a_checkpoint_gives_what_it_has_under_a_key(tmp_path: Path) -> None:
    saved, module = Tied(1), Tied(2)
    path = checkpoint(tmp_path, saved)
    with pytest.raises(LoadError, match='looks like a checkpoint: set weights_key = "model"'):
        load_weights(module, path, tmp_path)
    load_weights(module, path, tmp_path, key="model")
    assert same(module, saved)


@pytest.mark.parametrize(
    ("key", "words"),
    [("state_dict", "only epoch, model, optimizer"), ("epoch", "a int there"), ("model.table", "only epoch")],
)
def test_a_key_that_leads_to_no_state_dict_is_told_with_those_there_are(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(LoadError, match=f"weights_key: is '{key}', 'w.pt' has {words}.*, expected a state dict"):
        load_weights(Tied(), checkpoint(tmp_path, Tied()), tmp_path, key=key)


@pytest.mark.parametrize("write", [save_file, torch.save])
def test_entries_that_are_too_much_are_left_out_on_request(
    tmp_path: Path, write: Callable[[State, Path], object]
) -> None:
    saved, module = Tied(1), Tied(2)
    write(distinct(saved) | {"teacher.weight": torch.zeros(3)}, tmp_path / "w")
    with pytest.raises(LoadError, match=r"teacher\.weight unexpected; set strict = false if they may be left out"):
        load_weights(module, tmp_path / "w", tmp_path)
    load_weights(module, tmp_path / "w", tmp_path, strict=False)
    assert same(module, saved)


def test_missing_weights_are_never_left_out(tmp_path: Path) -> None:
    state = distinct(Tied())
    save_file({"table": state["table"], "stray": state["table"] + 1}, tmp_path / "w")
    with pytest.raises(LoadError, match=r"head\.bias missing$"):
        load_weights(Tied(), tmp_path / "w", tmp_path, strict=False)
    save_file(state | {"table": torch.zeros(7)}, tmp_path / "w")
    with pytest.raises(LoadError, match="size mismatch for table"):
        load_weights(Tied(), tmp_path / "w", tmp_path, strict=False)


def test_names_that_are_missing_or_unexpected_are_told(tmp_path: Path) -> None:
    state = distinct(Tied())
    save_file({"table": state["table"], "stray": state["table"] + 1}, tmp_path / "w")
    words = "weights 'w' do not fit the module: embedding.weight, head.weight, head.bias missing; stray unexpected"
    with pytest.raises(LoadError) as raised:
        load_weights(Tied(), tmp_path / "w", tmp_path)
    assert str(raised.value) == words
    save_file(state | {"table": torch.zeros(7)}, tmp_path / "w")
    with pytest.raises(LoadError, match=r"(?s)do not fit the module: .*size mismatch for table"):
        load_weights(Tied(), tmp_path / "w", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither safetensors nor"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
            "neither safetensors nor",
        ),
        (b"{}", "no index of shards"),
        (b'{"weight_map": ["a"]}', "no index of shards"),
        (b"{ not json", "no index of shards"),
    ],
)
def test_other_content_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=words):
        load_weights(Tied(), tmp_path / "w.safetensors", tmp_path)


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(LoadError, match=r"\(UnpicklingError: .*; write them with safetensors"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "w.pt", tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(LoadError, match="hold a list, expected a state dict"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "w.pt", tmp_path)


def test_a_cut_file_is_refused_in_words(tmp_path: Path) -> None:
    save_model(Tied(), str(tmp_path / "whole"))
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "w").write_bytes(whole[:-20])
    with pytest.raises(LoadError, match="weights 'w'"):
        load_weights(Tied(), tmp_path / "w", tmp_path)
    shutil.copy(tmp_path / "whole", tmp_path / "w")
    load_weights(Tied(), tmp_path / "w", tmp_path)


def saved(folder: Path, backend: str) -> Path:
    """A file that another backend serves."""
    file = folder / "m.bin"
    linear = torch.nn.Linear(2, 2)
    if backend == "torchscript":
        torch.jit.save(torch.jit.script(linear), file)
    elif backend == "torch_export":
        torch.export.save(torch.export.export(linear, (torch.zeros(1, 2),)), str(file))
    else:
        torch.save(linear.state_dict(), file)
    return file


TOML = """
backend = "{}"
file = "m.bin"
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 2]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 2]
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asked", ["torchscript", "torch_export"])
@pytest.mark.parametrize("backend", ["torchscript", "torch_export", "torch"])
def test_a_file_for_another_backend_names_it(tmp_path: Path, backend: str, asked: str) -> None:
    folder = model_folder(tmp_path, TOML.format(asked))
    saved(folder, backend)
    if backend == asked:
        load_backend(load_spec(folder)).close()
        return
    with pytest.raises(LoadError, match=rf"file 'm.bin' is what torch\..*save writes.*: set backend = \"{backend}\""):
        load_backend(load_spec(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["torchscript", "torch_export"])
def test_weights_that_are_a_whole_model_are_named_as_such(tmp_path: Path, backend: str) -> None:
    with pytest.raises(
        LoadError, match=rf"weights 'm.bin' are what torch\..*save writes.*: set backend = \"{backend}\""
    ):
        load_weights(torch.nn.Linear(2, 2), saved(tmp_path, backend), tmp_path)
