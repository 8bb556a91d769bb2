"""Flags, batch statistics and random streams are used and put back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import artplus
from artplus import modes


def mixed_net() -> nn.Sequential:
    """A net in train mode with one frozen norm and one dropout switched off by the user."""
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(8))
    )
    net[1].eval()
    net[2].eval()
    return net


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for b in net.buffers()]


def test_restore_gives_each_module_its_own_flag():
    """Not ``train()`` for all: what was frozen is frozen again."""
    net = mixed_net()
    before = [m.training for m in net.modules()]
    saved = modes.flags(net)
    net.eval()
    modes.restore(saved)
    assert [m.training for m in net.modules()] == before


@pytest.mark.parametrize("fails", [False, True])
def test_crafting_is_evaluation_mode_and_ends(fails):
    """Everything is in eval mode inside and as before afterwards, error or not."""
    net = mixed_net()
    before, buffers = [m.training for m in net.modules()], statistics(net)
    try:
        with modes.attack_mode(net):
            assert not any(m.training for m in net.modules())
            net(torch.randn(4, 6))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [m.training for m in net.modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(buffers, net.buffers(), strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_crafting_lets_recurrent_layers_differentiate_on_cuda():
    """cuDNN's recurrent layers need train mode for a gradient; their dropout is off meanwhile."""
    rnn = nn.LSTM(3, 4, num_layers=2, dropout=0.5).cuda().eval()
    x = torch.randn(5, 2, 3, device="cuda", requires_grad=True)
    with modes.attack_mode(rnn):
        first, second = rnn(x)[0], rnn(x)[0]
        torch.autograd.grad(first.sum(), x)
    assert torch.equal(first, second)
    assert not rnn.training and rnn.dropout == 0.5


class FakeCudaRNN(nn.LSTM):
    """An LSTM whose parameters claim to be on a GPU, to test the bookkeeping without one."""

    def reset_parameters(self):
        """Nothing to reset."""

    def parameters(self, recurse=True):
        yield type("Claim", (), {"is_cuda": True})()


def test_crafting_keeps_recurrent_cuda_layers_in_train_mode():
    """Only the recurrent layer trains inside, without dropout, and both are put back."""
    net = nn.Sequential(FakeCudaRNN(3, 4, num_layers=2, dropout=0.5), nn.Dropout(0.1))
    net[0].training = False
    with modes.attack_mode(net):
        assert net[0].training and net[0].dropout == 0.0
        assert not net[1].training
    assert not net[0].training and net[0].dropout == 0.5 and net[1].training


NORMS = {
    "batch": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch, cumulative": (lambda: nn.BatchNorm1d(6, momentum=None), (5, 6)),
    "batch, no affine": (lambda: nn.BatchNorm1d(6, affine=False), (5, 6)),
    "instance": (lambda: nn.InstanceNorm1d(6, track_running_stats=True), (5, 6, 4)),
    "images": (lambda: nn.BatchNorm2d(2), (5, 2, 3, 3)),
}


@pytest.mark.parametrize("norm", NORMS)
def test_untracked_normalises_as_in_training_and_remembers_nothing(norm):
    """The output is train mode's own, the running statistics stay, and tracking resumes."""
    build, shape = NORMS[norm]
    layer = build()
    twin = copy.deepcopy(layer)
    x = torch.randn(shape) * 3 + 2
    before = statistics(layer)
    with modes.frozen_batchnorm_stats(layer):
        inside = layer(x)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))
    torch.testing.assert_close(inside, twin(x))
    layer(x)
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_untracked_ends_after_an_error(norm):
    """Layers track again, with their own buffers, even if the pass inside fails."""
    layer = NORMS[norm][0]()
    with pytest.raises(ZeroDivisionError, match="division"), modes.frozen_batchnorm_stats(layer):
        raise ZeroDivisionError("division")
    assert layer.track_running_stats and layer.running_mean is not None


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_untracked_leaves_frozen_norms_to_their_averages(norm):
    """A norm in eval mode normalises by its running averages inside too."""
    build, shape = NORMS[norm]
    frozen = build().eval()
    frozen.running_mean.fill_(5.0)
    x = torch.randn(shape)
    expected = frozen(x)
    with modes.frozen_batchnorm_stats(frozen):
        assert torch.equal(frozen(x), expected)
    assert frozen.track_running_stats


def test_untracked_leaves_norms_without_averages_alone():
    """A norm that never tracked does not begin to."""
    layer = nn.BatchNorm1d(6, track_running_stats=False)
    with modes.frozen_batchnorm_stats(layer):
        layer(torch.randn(4, 6))
    assert not layer.track_running_stats


def test_begin_training_leaves_a_training_net_as_it_is():
    """Sub-modules that the user froze in a training net stay frozen."""
    net = mixed_net()
    before = [m.training for m in net.modules()]
    modes.begin_training(net)
    assert [m.training for m in net.modules()] == before


def test_begin_training_wakes_all_but_frozen_layers():
    """After a ``predict`` all is in eval mode: train, save layers with frozen parameters."""
    net = mixed_net().eval()
    for p in net[1].parameters():
        p.requires_grad_(False)
    net[0].weight.requires_grad_(False)  # one of two: still learning
    modes.begin_training(net)
    assert [m.training for m in net] == [True, False, True, True]
    assert net.training and net[3][0].training


class LoRALinear(nn.Module):
    """The structure that PEFT puts in the place of a layer: the old one, and what is trained."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base_layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_B["default"](low)


class Encoder(nn.Module):
    """A network with parameters of its own, dropout, and a norm, as vision transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(6))
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)) for _ in range(3))
        )
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x + self.position))


class Wrapped(nn.Module):
    """A new root, in train mode as every new module, around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def like_peft() -> Wrapped:
    """What ``get_peft_model(from_pretrained(...))`` returns: roots in train, the rest in eval."""
    encoder = Encoder().eval().requires_grad_(False)
    for layer in encoder.layers:
        layer[0] = LoRALinear(layer[0])
    return Wrapped(Wrapped(encoder))


def test_begin_training_wakes_a_model_that_was_loaded_in_eval_mode():
    """Adapters inside a pretrained model: its containers and dropout train, frozen norms do not."""
    net = like_peft()
    assert net.training and not net.model.model.training
    note = modes.begin_training(net)
    encoder = net.model.model
    assert encoder.training and encoder.layers.training
    for layer in encoder.layers:
        assert layer.training and layer[0].training and layer[2].training
        assert not layer[1].training
    assert "were set to train mode" in note
    assert modes.begin_training(net) is None  # nothing is left to do


def test_begin_training_wakes_a_pretrained_backbone_under_a_new_head():
    """A backbone from ``from_pretrained``, all of it trainable, and a head that was just made."""
    net = nn.Sequential(Encoder().eval(), nn.ReLU(), nn.Linear(3, 2))
    assert modes.begin_training(net) is not None
    assert all(m.training for m in net.modules())


def test_begin_training_leaves_a_frozen_backbone_alone():
    """In eval mode and without a trainable weight: the user meant it."""
    net = nn.Sequential(Encoder().eval().requires_grad_(False), nn.Linear(3, 2))
    assert modes.begin_training(net) is None
    assert net.training and not any(m.training for m in net[0].modules())


@pytest.mark.parametrize("what", ["norms", "dropout", "norms and dropout", "one block"])
def test_begin_training_leaves_what_was_frozen_by_hand(what):
    """Every norm, every dropout, or a whole block, whose weights train on."""
    net = Encoder()
    for layer in net.layers:
        if "norms" in what:
            layer[1].eval()
        if "dropout" in what:
            layer[2].eval()
    if what == "one block":
        net.layers[0].eval()
    before = [m.training for m in net.modules()]
    assert modes.begin_training(net) is None
    assert [m.training for m in net.modules()] == before


def test_begin_training_wakes_dropout_below_frozen_parameters_of_a_container():
    """A frozen position embedding says nothing about the layers beside it."""
    net = Encoder().eval()
    net.position.requires_grad_(False)
    modes.begin_training(net)
    assert all(m.training for m in net.modules())


def test_fit_trains_adapters_with_dropout_and_says_so():
    """The whole way: the pretrained part is in train mode in the step, and as before afterwards."""
    net, modes_in_steps = like_peft(), []
    before = [m.training for m in net.modules()]
    net.model.model.layers[0].register_forward_hook(
        lambda layer, *_: modes_in_steps.append(layer[2].training)
    )
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    data = torch.rand(16, 6), torch.randint(3, (16,))
    history = artplus.fit(net, data, optimizer, eps=0.1, epochs=1, progress=False)
    assert True in modes_in_steps
    assert any("were set to train mode" in note for note in history.notes)
    assert [m.training for m in net.modules()] == before


def test_begin_training_wakes_a_model_under_peft():
    """The real library, where it is installed."""
    peft = pytest.importorskip("peft")
    encoder = Encoder().eval()
    net = peft.get_peft_model(
        encoder, peft.LoraConfig(target_modules=r"layers\.\d\.0", lora_dropout=0.1)
    )
    assert net.training and not encoder.training
    assert modes.begin_training(net) is not None
    assert encoder.training and all(layer[2].training for layer in encoder.layers)


def test_random_state_rewinds_the_stream(device):
    """Draws after a rewind are the same draws, on the device and on the CPU."""
    stream = modes.RandomState(device, nn.Dropout())
    before = stream.get()
    first = torch.rand(3, device=device), torch.rand(3)
    after = stream.get()
    second = torch.rand(3, device=device), torch.rand(3)
    stream.set(before)
    assert torch.equal(torch.rand(3, device=device), first[0])
    assert torch.equal(torch.rand(3), first[1])
    stream.set(after)
    assert torch.equal(torch.rand(3, device=device), second[0])
    assert torch.equal(torch.rand(3), second[1])


def test_wrappers_are_looked_through():
    """From the outside in, by the attributes of DDP, PEFT and torch.compile; a cycle ends."""

    class Wrapper(nn.Module):
        def __init__(self, name: str, inner: nn.Module) -> None:
            super().__init__()
            setattr(self, name, inner)

    class Innermost(nn.Linear):
        @property
        def base_model(self) -> nn.Module:
            return self

    core = Innermost(2, 2)
    peft = Wrapper("base_model", Wrapper("model", core))
    outer = Wrapper("module", peft)
    assert list(modes.unwrapped(outer)) == [outer, peft, peft.base_model, core]
    assert list(modes.unwrapped(nn.Sequential(core)))[1:] == []
