"""The lab's network for a loop of augmentations on a CPU, under LEMUR's contract. About 19,000 parameters.

It averages its input down to 16 px first: digits are 8 px blown up to the functions' 64 px, so nothing is lost, and one
epoch of 20 steps tells augmentations apart (what ``small_network.py``, which looks at 64 px, hardly does).

It is read as text and executed in the sandbox beside a candidate's augmentation, as a pinned LEMUR network would be.
"""

import torch
from torch import nn


def supported_hyperparameters():
    return {"lr", "momentum"}


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.device = device
        layers = [nn.AdaptiveAvgPool2d(16)]
        for before, after in ((in_shape[1], 24), (24, 48)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 4 * 4, out_shape[0]))

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
