"""Convolutions of one channel: another way to the same gradient, and no trace of it afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus import convolution, modes

LAYERS = {
    "square": nn.Conv2d(1, 16, 4, stride=2, padding=1),
    "no bias": nn.Conv2d(1, 12, 3, bias=False),
    "oblong": nn.Conv2d(1, 16, (3, 5), stride=(1, 2), padding=(2, 0)),
    "wide stride": nn.Conv2d(1, 9, 3, stride=4),
}

OTHERS = {
    "two channels": nn.Conv2d(2, 16, 3),
    "few outputs": nn.Conv2d(1, 6, 5),
    "dilated": nn.Conv2d(1, 16, 3, dilation=2),
    "reflected": nn.Conv2d(1, 16, 3, padding=1, padding_mode="reflect"),
    "named padding": nn.Conv2d(1, 16, 3, padding="same"),
    "double": nn.Conv2d(1, 16, 3).double(),
    "linear": nn.Linear(4, 4),
}


def gradient(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    z = x.clone().requires_grad_(True)
    return torch.autograd.grad(torch.sin(layer(z)).sum(), z)[0]


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_torchs(name):
    """To rounding, for every stride and padding, also where the stride leaves pixels unseen."""
    layer, x = LAYERS[name], torch.rand(5, 1, 13, 14)
    expected = gradient(layer, x)
    with convolution.one_channel(layer):
        assert "forward" in vars(layer)
        torch.testing.assert_close(gradient(layer, x), expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_are_left_alone(name):
    """Those that the formula does not fit, or where it is slower."""
    layer = OTHERS[name]
    with convolution.one_channel(nn.Sequential(layer)):
        assert "forward" not in vars(layer)


def test_second_derivatives_are_torchs():
    """A penalty on the gradient can be attacked too."""
    layer, x = LAYERS["square"], torch.rand(2, 1, 8, 8)

    def second() -> torch.Tensor:
        z = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(torch.sin(layer(z)).sum(), z, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), z)[0]

    expected = second()
    with convolution.one_channel(layer):
        torch.testing.assert_close(second(), expected, atol=1e-4, rtol=1e-4)


def test_no_gradient_means_torchs_own_pass():
    """Predictions in evaluation are those of the model, bit for bit."""
    layer, x = LAYERS["square"], torch.rand(2, 1, 8, 8)
    expected = layer(x)
    with convolution.one_channel(layer), torch.no_grad():
        assert torch.equal(layer(x), expected)


def test_autocast_is_left_alone():
    layer, x = LAYERS["square"], torch.rand(2, 1, 8, 8, requires_grad=True)
    with convolution.one_channel(layer), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_weights_get_their_gradients_again_afterwards():
    """Also after an error inside."""
    net = nn.Sequential(copy.deepcopy(LAYERS["square"]), nn.Flatten())
    with pytest.raises(RuntimeError, match="stop"), modes.attack_mode(net):
        raise RuntimeError("stop")
    net(torch.rand(2, 1, 8, 8)).sum().backward()
    assert float(net[0].weight.grad.abs().sum()) > 0


def test_within_itself_it_takes_off_what_it_put_on():
    """Attacks nest: the inner one must not take away the outer one's."""
    layer = LAYERS["square"]
    with convolution.one_channel(layer):
        with convolution.one_channel(layer):
            pass
        assert "forward" in vars(layer)
    with convolution.left_alone(), convolution.one_channel(layer):
        assert "forward" not in vars(layer)


def test_a_compiled_model_is_left_alone():
    """Its graphs would be made anew at every change of a layer."""
    net = nn.Sequential(copy.deepcopy(LAYERS["square"]))
    compiled = torch.compile(net)
    with convolution.one_channel(compiled):
        assert "forward" not in vars(net[0])


def test_a_parametrised_weight_is_used_as_it_is_computed():
    """Weight norm and the like: the gradient is that of the weight in force."""
    layer = nn.utils.parametrizations.weight_norm(copy.deepcopy(LAYERS["square"]))
    x = torch.rand(3, 1, 8, 8)
    expected = gradient(layer, x)
    with convolution.one_channel(layer):
        torch.testing.assert_close(gradient(layer, x), expected, atol=1e-5, rtol=1e-4)


def test_a_layer_with_a_forward_of_its_own_is_left_alone():
    """Libraries that offload or quantise put one there; it is called, and stays."""
    layer = copy.deepcopy(LAYERS["square"])
    calls = []
    layer.forward = lambda x: calls.append(x) or nn.Conv2d.forward(layer, x)
    own = vars(layer)["forward"]
    with convolution.one_channel(nn.Sequential(layer)):
        gradient(layer, torch.rand(2, 1, 8, 8))
    assert len(calls) == 1 and vars(layer)["forward"] is own


def test_hooks_run_as_before():
    """A user's forward hook sees the layer's outputs inside, too."""
    layer, x, outputs = copy.deepcopy(LAYERS["square"]), torch.rand(2, 1, 8, 8), []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    with convolution.one_channel(layer):
        gradient(layer, x)
    assert torch.equal(outputs[0], nn.Conv2d.forward(layer, x))


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 2), st.integers(0, 2), st.booleans(), st.integers(5, 11), st.integers(5, 11),
)  # fmt: skip
def test_the_gradient_is_torchs_whatever_the_geometry(kh, kw, sh, sw, ph, pw, bias, height, width):
    """Kernel, stride, padding and size drawn at random."""
    layer = nn.Conv2d(1, kh * kw, (kh, kw), (sh, sw), (ph, pw), bias=bias)
    x = torch.rand(2, 1, height, width)
    expected = gradient(layer, x)
    with convolution.one_channel(layer):
        assert "forward" in vars(layer)
        torch.testing.assert_close(gradient(layer, x), expected, atol=1e-5, rtol=1e-4)
