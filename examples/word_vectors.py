"""Word vectors by skip-gram: words that stand among the same words get similar vectors.

    python examples/word_vectors.py [EPOCHS]

With `import torch`, PyTorch prints the same. The text is made of a few forms of sentences, so that
it is known which words are alike; the model is told nothing of them. It learns to tell the words
around a word from words drawn at random: Mikolov, Sutskever, Chen, Corrado, Dean: Distributed
Representations of Words and Phrases and their Compositionality, 2013, arXiv 1310.4546.
"""

import random
import sys
from collections import Counter

import nanotorch as torch
from nanotorch import nn
from nanotorch.nn import functional as F

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
window, negatives, size = 2, 5, 16

kinds = {
    "animal": ["cat", "dog", "horse", "cow", "goose", "hen"],
    "food": ["bread", "rice", "soup", "fish", "cake", "corn"],
    "person": ["ada", "ben", "clara", "david", "eva", "felix"],
    "day": ["monday", "tuesday", "wednesday", "thursday", "friday", "sunday"],
    "place": ["garden", "kitchen", "barn", "yard", "field", "house"],
    "colour": ["black", "white", "brown", "grey", "red", "yellow"],
}
forms = [
    "the {colour} {animal} sleeps in the {place}",
    "on {day} {person} eats {food}",
    "the {animal} eats {food} in the {place}",
    "{person} sees a {colour} {animal} on {day}",
    "{person} goes to the {place} on {day}",
]
dice = random.Random(0)
text = [
    dice.choice(forms).format(**{kind: dice.choice(words) for kind, words in kinds.items()}).split()
    for _ in range(1500)
]
counts = Counter(word for sentence in text for word in sentence)
words = sorted(counts)
number = {word: i for i, word in enumerate(words)}

pairs = []  # (a word, a word near it)
for sentence in text:
    for i, word in enumerate(sentence):
        for near in sentence[max(0, i - window) : i] + sentence[i + 1 : i + 1 + window]:
            pairs.append((number[word], number[near]))
pairs = torch.tensor(pairs)
# Words are drawn by their counts to the power 3/4, as in the paper.
weights = torch.tensor([counts[word] for word in words]).float() ** 0.75
print(f"{len(text)} sentences, {len(words)} words, {len(pairs)} pairs")


class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(len(words), size)
        self.near = nn.Embedding(len(words), size)
        nn.init.normal_(self.word.weight, std=0.1)
        nn.init.zeros_(self.near.weight)

    def forward(self, word, near, drawn):
        """The mean loss of telling the words near a word from those that were drawn."""
        v = self.word(word)
        right = (v * self.near(near)).sum(dim=1)
        wrong = torch.bmm(self.near(drawn), v.unsqueeze(2)).squeeze(2)
        return -(F.logsigmoid(right) + F.logsigmoid(-wrong).sum(dim=1)).mean()


torch.manual_seed(0)
model = SkipGram()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(1, epochs + 1):
    total = 0.0
    for batch in torch.randperm(len(pairs)).split(512):
        word, near = pairs[batch].unbind(dim=1)
        drawn = torch.multinomial(weights, len(batch) * negatives, replacement=True)
        loss = model(word, near, drawn.view(len(batch), negatives))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    if epoch == 1 or epoch % 5 == 0:
        print(f"epoch {epoch:2d}   loss {total / len(pairs):.3f}")

# The words with the most similar vectors, by the cosine of the angle between them.
with torch.no_grad():
    vectors = F.normalize(model.word.weight, dim=1)
    for word in ("cat", "rice", "eva", "friday", "barn", "red"):
        similarity = vectors @ vectors[number[word]]
        print(f"{word:6s}", *(words[i] for i in similarity.topk(6).indices.tolist()[1:]))
