"""A small GPT: it reads a text letter by letter, and goes on writing in its manner.

    python examples/gpt.py [STEPS]

With `import torch`, PyTorch prints the same. Source: Radford, Wu, Child, Luan, Amodei, Sutskever:
Language Models are Unsupervised Multitask Learners, 2019.
"""

import math
import sys
from pathlib import Path

import nanotorch as torch
from nanotorch import nn
from nanotorch.nn import functional as F

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 800
length, batch_size, width, heads, layers = 64, 12, 64, 4, 2

text = Path(__file__).with_name("tides.txt").read_text()
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
data = torch.tensor([number[letter] for letter in text])


class Attention(nn.Module):
    """Each letter looks at those before it: softmax(q kᵀ / √size) v in each head."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("hidden", torch.ones(length, length).triu(1).bool(), persistent=False)

    def forward(self, x):
        batch, count, _ = x.shape
        q, k, v = (
            part.view(batch, count, heads, width // heads).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // heads)
        scores = scores.masked_fill(self.hidden[:count, :count], float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, count, width))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.norm1 = Attention(), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(len(letters), width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(letters), bias=False)
        self.apply(self.initialize)
        self.head.weight = self.letters.weight  # one matrix reads and writes letters

    def initialize(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.letters(x) + self.places(torch.arange(x.size(1)))
        return self.head(self.norm(self.blocks(x)))

    @torch.no_grad()
    def write(self, start, count, temperature=0.7):
        x = torch.tensor([[number[letter] for letter in start]])
        for _ in range(count):
            scores = self(x[:, -length:])[:, -1] / temperature
            x = torch.cat([x, torch.multinomial(F.softmax(scores, dim=-1), 1)], dim=1)
        return "".join(letters[i] for i in x[0].tolist())


torch.manual_seed(0)
model = GPT()
decayed = [p for p in model.parameters() if p.dim() >= 2]
others = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
    lr=3e-3,
    betas=(0.9, 0.95),
)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
print(f"{len(text)} letters of {len(letters)} kinds")
print(sum(p.numel() for p in model.parameters()), "parameters")

for step in range(1, steps + 1):
    starts = torch.randint(len(data) - length, (batch_size,))
    x = torch.stack([data[i : i + length] for i in starts.tolist()])
    y = torch.stack([data[i + 1 : i + 1 + length] for i in starts.tolist()])
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    if step == 1 or step % max(1, steps // 10) == 0:
        print(f"step {step:5d}   loss {loss.item():.3f}")

model.eval()
print(model.write("The moon ", 200))
