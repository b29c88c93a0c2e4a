"""The lab's own small network for scoring augmentations on a CPU, under LEMUR's contract. About 25,000 parameters.

It is read as text and executed in the sandbox beside a candidate's augmentation, as a pinned LEMUR network would be.
"""

from itertools import pairwise

import torch
from torch import nn


def supported_hyperparameters():
    return {"lr", "momentum"}


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.device = device
        widths = (in_shape[1], 16, 32, 64)
        blocks = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
        ]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], out_shape[0]))

    def forward(self, x):
        return self.net(x)

    def train_setup(self, prm):
        self.to(self.device)
        self.loss = nn.CrossEntropyLoss().to(self.device)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=prm["lr"], momentum=prm["momentum"])

    def learn(self, train_data):
        for inputs, labels in train_data:
            self.optimizer.zero_grad()
            self.loss(self(inputs.to(self.device)), labels.to(self.device)).backward()
            self.optimizer.step()
