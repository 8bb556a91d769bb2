"""What comes from the disk: each way it can be wrong has a message that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from artplus.commands import files
from artplus.errors import ConfigurationError, DataError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module ``factories_here`` in the working directory, as a user would have it."""
    (tmp_path / "factories_here.py").write_text(
        "import torch\n"
        "size = 3\n"
        "def net(): return torch.nn.Linear(4, 3)\n"
        "def needs(width): return torch.nn.Linear(width, 3)\n"
        "def number(): return 7\n"
    )
    (tmp_path / "broken_here.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("factories_here", None)


def test_arrays_come_back_as_written(tmp_path):
    """Arrays round-trip; inputs as float32, labels untouched."""
    x, y = np.random.rand(5, 2), np.arange(5)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    got_x, got_y = files.arrays(tmp_path / "d.npz")
    assert got_x.dtype == np.float32
    np.testing.assert_allclose(got_x, x, rtol=1e-6)
    np.testing.assert_array_equal(got_y, y)


def test_no_such_data(tmp_path):
    """A path that leads nowhere is named."""
    with pytest.raises(DataError, match="no data file .*absent.npz"):
        files.arrays(tmp_path / "absent.npz")


@given(content=st.binary(max_size=60))
@example(b"")
@example(b"PK\x03\x04 cut off")
@example(b"\x93NUMPY")
def test_data_that_is_no_archive(tmp_path, content):
    """Other files are refused, whatever they hold."""
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="not an .npz file"):
        files.arrays(tmp_path / "d.npz")


def test_a_single_array_is_no_archive(tmp_path):
    """An ``.npy`` file is one array without a name."""
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DataError, match="not an .npz file"):
        files.arrays(tmp_path / "d.npy")


def test_pickled_arrays_are_not_loaded(tmp_path):
    """Loading objects would run code from the file."""
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match="plain arrays"):
        files.arrays(tmp_path / "d.npz")


def test_data_with_other_names(tmp_path):
    """The names found are shown beside those wanted."""
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 2)), y=np.zeros(2))
    with pytest.raises(DataError, match="named x and y, it holds images, y"):
        files.arrays(tmp_path / "d.npz")


def test_data_of_bytes(tmp_path):
    """Bytes would be out of range; the message shows the conversion."""
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 2), np.uint8), y=np.zeros(2))
    with pytest.raises(DataError, match="floats.*got uint8.*255"):
        files.arrays(tmp_path / "d.npz")


def test_model_from_the_working_directory(package):
    """The factory is called and its module handed over."""
    assert isinstance(files.model("factories_here:net"), nn.Linear)


@pytest.mark.parametrize("spec", ["factories_here", "factories_here:", ":net"])
def test_model_spec_without_both_parts(package, spec):
    """The form is explained."""
    with pytest.raises(ConfigurationError, match="package.module:function"):
        files.model(spec)


def test_model_in_no_module(package):
    """A module that is not there is named, with what to try."""
    with pytest.raises(ConfigurationError, match="no module named 'factories_there'"):
        files.model("factories_there:net")


def test_model_whose_module_misses_another(package):
    """The missing package is named, not the module that asked for it."""
    with pytest.raises(ConfigurationError, match="no module named 'no_such_package_anywhere'"):
        files.model("broken_here:net")


@pytest.mark.parametrize("name", ["nett", "size"])
def test_model_in_no_function(package, name):
    """What the module does define is listed."""
    with pytest.raises(ConfigurationError, match=f"no function '{name}'.*needs, net, number"):
        files.model(f"factories_here:{name}")


def test_model_factory_with_arguments(package):
    """A factory that needs arguments cannot be called."""
    with pytest.raises(ConfigurationError, match="called without arguments"):
        files.model("factories_here:needs")


def test_model_factory_of_something_else(package):
    """What is no module is refused."""
    with pytest.raises(ConfigurationError, match="must return a torch.nn.Module, got int"):
        files.model("factories_here:number")


def test_weights_round_trip(tmp_path):
    """What is saved is loaded, to the last bit, by torch's safe loader."""
    path = files.save_weights(nn.Linear(4, 3), tmp_path / "w.pt")
    module = nn.Linear(4, 3)
    files.load_weights(module, path)
    saved = torch.load(path, weights_only=True)
    assert torch.equal(module.weight, saved["weight"])


def test_no_such_weights(tmp_path):
    """A path that leads nowhere is named."""
    with pytest.raises(DataError, match="no weights file .*absent.pt"):
        files.load_weights(nn.Linear(4, 3), tmp_path / "absent.pt")


@given(content=st.binary(max_size=60))
@example(b"")
@example(b"PK\x03\x04 cut off")
@example(b"\x80\x02.")
def test_other_files_are_no_weights(tmp_path, content):
    """Other files are refused in one line, whatever they hold."""
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DataError, match="not a file of weights") as caught:
        files.load_weights(nn.Linear(4, 3), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_weights_cut_off(tmp_path, share):
    """A download that stopped half-way is refused."""
    path = files.save_weights(nn.Linear(4, 3), tmp_path / "w.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="cut off"):
        files.load_weights(nn.Linear(4, 3), path)


def test_pickled_code_is_not_run(tmp_path):
    """A whole pickled module could run code on loading; only tensors are read."""
    torch.save(nn.Linear(4, 3), tmp_path / "w.pt")
    with pytest.raises(DataError, match="not a file of weights"):
        files.load_weights(nn.Linear(4, 3), tmp_path / "w.pt")


def test_weights_that_are_a_tensor(tmp_path):
    """A file of another content says what it held."""
    torch.save(torch.zeros(3), tmp_path / "w.pt")
    with pytest.raises(DataError, match="state_dict, got Tensor"):
        files.load_weights(nn.Linear(4, 3), tmp_path / "w.pt")


def test_weights_of_another_architecture(tmp_path):
    """What does not fit is named."""
    files.save_weights(nn.Linear(5, 3), tmp_path / "w.pt")
    with pytest.raises(DataError, match="does not fit this model.*weight"):
        files.load_weights(nn.Linear(4, 3), tmp_path / "w.pt")


def test_outputs_never_replace_unasked(tmp_path):
    """An existing file stops the command before it starts, unless told to replace."""
    folder = tmp_path / "a" / "b"
    assert files.outputs(folder, ["w.pt"], overwrite=False) == [folder / "w.pt"]
    assert folder.is_dir()
    (folder / "w.pt").touch()
    with pytest.raises(ConfigurationError, match="already holds w.pt.*--overwrite"):
        files.outputs(folder, ["w.pt", "h.json"], overwrite=False)
    assert files.outputs(folder, ["w.pt"], overwrite=True) == [folder / "w.pt"]


def test_outputs_in_a_file(tmp_path):
    """A file is no folder."""
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigurationError, match="a file, not a folder"):
        files.outputs(Path(tmp_path / "taken"), ["w.pt"], overwrite=False)
