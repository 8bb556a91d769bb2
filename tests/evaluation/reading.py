"""Small classifiers of texts, with tokenizers made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from artplus import modes

WORDS = ("good fine great bad poor awful film movie story plot actor scene dull bright slow quick "
         "the a is not very unhappy").split()  # fmt: skip
VOCABULARY = {word: k for k, word in enumerate(["<unk>", *WORDS])}


def whitespace(text: str) -> list[int]:
    """Ids of the words between blanks."""
    return [VOCABULARY.get(word, 0) for word in text.lower().split()]


class Bag(nn.Module):
    """The sum of the words' vectors, then a linear layer: logits are linear in each embedding."""

    def __init__(self, dimension: int = 6, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(len(VOCABULARY), dimension)
        self.out = nn.Linear(dimension, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embedding(ids).sum(1))


class Recurrent(nn.Module):
    """A GRU over the words."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(len(VOCABULARY), 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.drop(self.gru(self.embedding(ids))[0][:, -1]))


class Constant(nn.Module):
    """The same class for every text; its embedding plays no part beyond having a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), 4)

    def forward(self, ids: Tensor) -> Tensor:
        return 0 * self.embedding(ids).sum((1, 2))[:, None] + torch.tensor([2.0, 0.0])


def wordpiece(words: Sequence[str] = WORDS) -> Any:
    """BERT's tokenizer with a vocabulary of whole words, letters and pieces."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    letters = [chr(k) for k in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [f"##{letter}" for letter in letters]
    known = [*dict.fromkeys([*special, *words, "un", "##happy", *letters, *pieces])]
    known.remove("unhappy")
    model = WordPiece({token: k for k, token in enumerate(known)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(
        ("[SEP]", known.index("[SEP]")), ("[CLS]", known.index("[CLS]"))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def bert(tokenizer: Any, classes: int = 3) -> nn.Module:
    """A Transformer of two small layers."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, num_labels=classes,
        initializer_range=0.3,
    )  # fmt: skip
    module: nn.Module = BertForSequenceClassification(config)
    return module


def predictions(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Classes, one text at a time."""
    classes = []
    flags = modes.flags(model)
    model.eval()
    with torch.no_grad():
        for text in texts:
            encoded = tokenizer(text)
            if isinstance(encoded, Mapping):
                rows = {name: torch.as_tensor([values]) for name, values in encoded.items()}
                classes.append(int(model(**rows).logits.argmax()))
            else:
                classes.append(int(model(torch.tensor([encoded])).argmax()))
    modes.restore(flags)
    return classes
