"""The next token: cross-entropy over the tokens that count, shifted by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks import make_task
from tests.tasks.twins import batch_mean, check_divergence, check_metrics, kl, labels, logits

N, T, V = 4, 6, 5


def tokens() -> Tensor:
    """Labels with a prompt, padding at either side, and one example without a token that counts."""
    y = labels(V, N, T)
    y[0, :2], y[1, 4:], y[2, 0], y[3] = -100, -100, -100, -100
    return y


def predicted(p: Tensor, y: Tensor) -> list[list[tuple[Tensor, int]]]:
    """Of each example the logits and the label of every token that counts."""
    return [
        [(p[i, t], int(y[i, t + 1])) for t in range(T - 1) if y[i, t + 1] != -100] for i in range(N)
    ]


@pytest.mark.parametrize("weight", [None, torch.linspace(0.5, 2, V, dtype=torch.float64)])
def test_the_batch_mean_is_over_tokens(weight):
    """As torch's own loss of all tokens of the batch, in parts as well."""
    criterion = nn.CrossEntropyLoss(weight=weight)
    task, p, y = make_task("causal_lm", criterion), logits(N, T, V), tokens()
    whole = criterion(p[:, :-1].reshape(-1, V), y[:, 1:].reshape(-1))
    torch.testing.assert_close(batch_mean(task, p, y), whole)
    parts = [(task.loss(p[s], y[s]) * task.weights(y[s])).sum() for s in (slice(1), slice(1, N))]
    torch.testing.assert_close(sum(parts) / task.weights(y).sum(), whole)


def test_an_example_is_the_mean_of_its_tokens():
    """It weighs by their number; padding on to another length changes nothing."""
    task, p, y = make_task("causal_lm"), logits(N, T, V), tokens()
    for i, pairs in enumerate(predicted(p, y)):
        surprise = [-float(row.log_softmax(0)[label]) for row, label in pairs]
        expected = sum(surprise) / len(surprise) if surprise else 0.0
        assert float(task.loss(p, y)[i]) == pytest.approx(expected)
        assert float(task.weights(y)[i]) == len(surprise)
    longer = torch.cat([y, torch.full((N, 3), -100)], 1)
    more = torch.cat([p, logits(N, 3, V, seed=3)], 1)
    torch.testing.assert_close(task.loss(more, longer), task.loss(p, y))
    assert torch.equal(task.weights(longer), task.weights(y))


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
def test_divergence(of):
    """The mean gap over the tokens that count; the last position predicts none."""
    task, y = make_task("causal_lm"), tokens()[:3]
    p, q = logits(3, T, V), logits(3, T, V, seed=1)
    check_divergence(task, p, q, y, of)
    gaps = {
        "kl": kl(p, q),
        "probabilities": (p.softmax(-1) - q.softmax(-1)).square().sum(-1),
        "logits": (p - q).square().mean(-1),
    }[of]
    expected = [gaps[i, :-1][y[i, 1:] != -100].mean() for i in range(3)]
    torch.testing.assert_close(task.divergence(p, q, y, of=of), torch.stack(expected))
    other = q.clone()
    other[:, :-1][y[:, 1:] == -100] += 7 * logits(V, seed=2)
    other[:, -1] += 3 * logits(V, seed=2)
    torch.testing.assert_close(task.divergence(p, other, y, of=of), torch.stack(expected))


def test_metrics():
    """Perplexity is the exponential of the mean surprise a token; accuracy is a token's."""
    p, y = logits(N, T, V), tokens()
    task = make_task("causal_lm").bind(p, y)
    pairs = [pair for example in predicted(p, y) for pair in example]
    surprise = [-float(row.log_softmax(0)[label]) for row, label in pairs]
    right = [int(row.argmax()) == label for row, label in pairs]
    values = check_metrics(task, p, y)
    assert values["perplexity"] == pytest.approx(math.exp(sum(surprise) / len(surprise)), rel=1e-5)
    assert values["token_accuracy"] == pytest.approx(sum(right) / len(right))
    assert torch.equal(task.answers(p), p.argmax(-1))
    assert task.correct(p, y) is None and task.margin(p, y) is None


def test_perplexity_is_that_of_the_words_whatever_the_loss():
    """A weighted or smoothed loss has another mean, and uniform predictions have V choices."""
    criterion = nn.CrossEntropyLoss(weight=torch.rand(V), label_smoothing=0.3)
    task = make_task("causal_lm", criterion)
    assert check_metrics(task, torch.zeros(N, T, V), tokens())["perplexity"] == pytest.approx(V)


def test_what_cannot_be_meant_is_refused():
    """Labels that are no ids, none that counts, logits of another form."""
    task = make_task("causal_lm")
    for wrong in (labels(V, N), torch.rand(N, T)):
        with pytest.raises(DataError, match=r"token ids \(batch, tokens\)"):
            task.check_targets(wrong)
    y = torch.full((N, T), -100)
    y[:, 0] = 1
    with pytest.raises(DataError, match="no label counts"):
        task.check_targets(y)
    assert task.bind(logits(N, T, V), tokens()).classes == V
    for p in (logits(N, V), logits(N, T + 1, V), {"a": logits(N, T, V)}):
        with pytest.raises(
            UnsupportedEstimatorError, match=r"logits \(batch, tokens, vocabulary\)"
        ):
            task.bind(p, tokens())
