"""LeNet on handwritten digits: two convolutions, three linear layers, 97% of unseen digits right.

    python examples/lenet.py [EPOCHS]

With `import torch`, PyTorch prints the same. The digits have 8 x 8 pixels, and so the convolutions
are smaller than those of LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to
Document Recognition, 1998.
"""

import sys

import nanotorch as torch
from nanotorch import nn
from nanotorch.datasets import load
from nanotorch.nn import functional as F
from nanotorch.utils.data import DataLoader, TensorDataset, random_split

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(16 * 2 * 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, start_dim=1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


torch.manual_seed(0)
table = load("digits")
images = torch.tensor(table.features).float().view(-1, 1, 8, 8) / 16
labels = torch.tensor(table.target)
train, test = random_split(TensorDataset(images, labels), [1500, 297])

model = LeNet()
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
print(model)
print(sum(p.numel() for p in model.parameters()), "parameters")

for epoch in range(1, epochs + 1):
    model.train()
    total = 0.0
    for x, y in DataLoader(train, batch_size=50, shuffle=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    schedule.step()

    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in DataLoader(test, batch_size=100):
            right += (model(x).argmax(dim=1) == y).sum().item()
    print(f"epoch {epoch:2d}   loss {total / len(train):.3f}   {right / len(test):.0%} right")
