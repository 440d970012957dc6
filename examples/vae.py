"""A variational autoencoder of handwritten digits: two numbers per digit, and new digits from them.

    python examples/vae.py [EPOCHS]

With `import torch`, PyTorch prints the same. Source: Kingma, Welling: Auto-Encoding Variational
Bayes, 2013, arXiv 1312.6114.
"""

import sys

import nanotorch as torch
from nanotorch import nn
from nanotorch.datasets import load
from nanotorch.nn import functional as F

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30


class VAE(nn.Module):
    """x -> the mean and log variance of z; z drawn from there -> x again."""

    def __init__(self, pixels=64, hidden=128, latent=2):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )

    def forward(self, x):
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def parts_of_loss(x, logits, mean, log_variance):
    """Per digit: how badly its pixels are restored, and how far z is from a normal distribution."""
    restored = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - mean**2 - log_variance.exp())
    return restored / len(x), divergence / len(x)


torch.manual_seed(0)
digits = torch.tensor(load("digits").features).float() / 16
train, test = digits[:1500], digits[1500:]
model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)

for epoch in range(1, epochs + 1):
    model.train()
    for x in train[torch.randperm(len(train))].split(100):
        restored, divergence = parts_of_loss(x, *model(x))
        optimizer.zero_grad()
        (restored + divergence).backward()
        optimizer.step()
    if epoch == 1 or epoch % 10 == 0:
        model.eval()
        with torch.no_grad():
            restored, divergence = parts_of_loss(test, *model(test))
        print(f"epoch {epoch:3d}   pixels {restored:.1f}   divergence {divergence:.1f}")

# Along a line through the plane of z, one kind of digit turns into another.
with torch.no_grad():
    z = torch.stack([torch.linspace(-2, 2, 5), torch.zeros(5)], dim=1)
    images = torch.sigmoid(model.decoder(z)).view(5, 8, 8)
for row in images.transpose(0, 1):
    print(
        "  ".join("".join(" .:oO@"[int(value * 5.99)] for value in line) for line in row.tolist())
    )
