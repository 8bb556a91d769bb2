"""A language model hardened by LoRA against completing a pattern, attacked before and after."""

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import artplus
from artplus.spaces import EmbeddingSpace
from artplus.tasks import Preference, PreferenceCollator

COUNT, REVERSE, ANSWER, REFUSE, END, WORD = 1, 2, 3, 4, 5, 6  # words are 6 to 21
SPACE = EmbeddingSpace(per="token", relative=True)
THREAT: dict[str, Any] = {"space": SPACE, "eps": 0.5, "norm": 2, "progress": False}


def rows(n: int) -> list[dict[str, Any]]:
    """Half ask for a count, which is to be avoided; half ask for the words in reverse."""
    made = []
    for k in range(n):
        words = torch.randint(16, (3,)).tolist()
        count = [WORD + (words[0] + step) % 16 for step in (1, 2, 3)]
        body = [WORD + word for word in words]
        avoid = {"prompt": [COUNT, *body, ANSWER], "chosen": [REFUSE, END], "rejected": count}
        utility = {"prompt": [REVERSE, *body, ANSWER], "chosen": [*body[::-1], END]}
        made.append(avoid if k % 2 else utility)
    return made


torch.manual_seed(0)
train, test, collate = rows(1024), rows(64), PreferenceCollator()
model: nn.Module = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=22, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, use_cache=False,
    )
)  # fmt: skip

# First it learns both, whatever is asked.
answers = [{"prompt": r["prompt"], "chosen": r.get("rejected", r["chosen"])} for r in train]
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
artplus.fit(model, collate(answers), optimizer, loss="cat", lam=0, epochs=12, seed=0, **THREAT)

config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
hardened = get_peft_model(copy.deepcopy(model), config)
optimizer = torch.optim.AdamW([p for p in hardened.parameters() if p.requires_grad], lr=3e-3)
data = collate(train[:512])
artplus.fit(hardened, data, optimizer, loss="cat", epochs=8, batch_size=32, seed=0, **THREAT)

task = Preference(refusal=(REFUSE,))
for name, net in {"before": model, "hardened": hardened}.items():
    report = artplus.evaluate(net, collate(test), attacks="pgd", task=task, **THREAT)
    asked, attacked = (m["attack_success"] for m in (report.clean_metrics, report.robust_metrics))
    print(f"{name}: counts for {asked:.0%} who ask, {attacked:.0%} under attack\n{report}\n")
