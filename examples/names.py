"""An LSTM that writes names: it reads first names letter by letter, and makes up new ones.

    python examples/names.py [EPOCHS]

With `import torch`, PyTorch prints the same.
"""

import sys
from pathlib import Path

import nanotorch as torch
from nanotorch import nn
from nanotorch.nn.utils.rnn import pack_sequence, pad_packed_sequence

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 40

names = Path(__file__).with_name("names.txt").read_text().split()
letters = [".", *sorted(set("".join(names)))]  # a dot begins and ends a name
number = {letter: i for i, letter in enumerate(letters)}


def encoded(text):
    return torch.tensor([number[letter] for letter in text])


class Writer(nn.Module):
    """Scores for the next letter, after each letter of a name."""

    def __init__(self, hidden=64):
        super().__init__()
        self.embedding = nn.Embedding(len(letters), 16)
        self.lstm = nn.LSTM(16, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, len(letters))

    def forward(self, packed, state=None):
        embedded = packed._replace(data=self.embedding(packed.data))
        output, state = self.lstm(embedded, state)
        return self.scores(output.data), state


def write(model, temperature=0.8):
    """A name, each letter drawn by its probability after those before it."""
    name, letter, state = "", ".", None
    while len(name) < 15:
        scores, state = model(pack_sequence([encoded(letter)]), state)
        probabilities = torch.softmax(scores[0] / temperature, dim=0)
        letter = letters[torch.multinomial(probabilities, 1).item()]
        if letter == ".":
            break
        name += letter
    return name


torch.manual_seed(0)
model = Writer()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
criterion = nn.CrossEntropyLoss()
print(model)

for epoch in range(1, epochs + 1):
    total = 0.0
    for batch in torch.randperm(len(names)).split(32):
        chosen = sorted((names[i] for i in batch.tolist()), key=len, reverse=True)
        inputs = pack_sequence([encoded("." + name) for name in chosen])
        targets = pack_sequence([encoded(name + ".") for name in chosen])
        scores, _ = model(inputs)
        loss = criterion(scores, targets.data)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(chosen)
    if epoch == 1 or epoch % 5 == 0:
        print(f"epoch {epoch:3d}   loss {total / len(names):.3f}")

model.eval()
with torch.no_grad():
    padded, lengths = pad_packed_sequence(pack_sequence([encoded(".ada"), encoded(".eva")]), True)
    print(padded.tolist(), lengths.tolist())
    print(*(write(model) for _ in range(12)))
