"""The hello world's names: the loss by a plain loop, pairs that are what they say, and the story's training step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compat.hello_mnist import ContrastiveLoss, ConvBackbone, SiameseMNIST, SiameseNetwork
from core.errors import InputError


def digits(train, labels=tuple(range(10)), each=6):
    """As torchvision's MNIST has them: each image's pixels are its number, so that it is known again."""
    targets = torch.tensor(labels).repeat(each)
    data = torch.arange(len(targets), dtype=torch.uint8)[:, None, None].expand(-1, 28, 28).contiguous()

    def transform(image):
        return torch.from_numpy(np.array(image)).float()[None]

    return SimpleNamespace(train=train, transform=transform, targets=targets, data=data)


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_loss_is_the_storys(margin, record_property):
    torch.manual_seed(0)
    first, second = torch.randn(8, 2), torch.randn(8, 2)
    target = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0])
    terms = []
    for x, y, same in zip(first.tolist(), second.tolist(), target.tolist()):
        squared = sum((a - b) ** 2 for a, b in zip(x, y))
        terms.append(squared if same else max(0.0, margin - squared + 1e-9) ** 2)
    loss = ContrastiveLoss(margin, eps=1e-9)(first, second, target).item()
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    record_property("largest difference", abs(loss - np.mean(terms)))


def test_the_network_makes_points():
    assert ConvBackbone()(torch.zeros(3, 1, 28, 28)).shape == (3, 2)


def test_pairs_are_what_they_say(record_property):
    """Never an image with itself, both kinds as often, and all labels as partners alike."""
    pairs = SiameseMNIST(digits(train=True))
    kinds, partners = [], []
    for _ in range(8):
        for index in range(len(pairs)):
            (first, second), (target, label) = pairs[index]
            assert first[0, 0, 0] == index and label == index % 10
            partner = int(second[0, 0, 0])
            assert partner != index and (partner % 10 == index % 10) == (target == 1)
            kinds.append(target)
            if not target:
                partners.append((partner - index) % 10)
    assert np.mean(kinds) == pytest.approx(0.5, abs=0.06)
    record_property("pairs", len(kinds))
    record_property("share of one label", f"{np.mean(kinds):.4f}")
    assert set(partners) == set(range(1, 10))


def test_validation_has_the_same_pairs_always(record_property):
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    first, second = SiameseMNIST(digits(train=False)), SiameseMNIST(digits(train=False))
    assert all(torch.equal(first[i][0][1], second[i][0][1]) and first[i][1] == second[i][1] for i in range(60))
    assert np.array_equal(np.random.get_state()[1], before)
    record_property("pairs equal", 60)
    # The global generator is left alone, and so are draws of training by it.
    torch.manual_seed(0)
    one = [SiameseMNIST(digits(train=True))[i][1][0] for i in range(20)]
    torch.manual_seed(0)
    assert one == [SiameseMNIST(digits(train=True))[i][1][0] for i in range(20)]
    with pytest.raises(InputError, match="at least 2 labels"):
        SiameseMNIST(digits(train=True, labels=(3,)))


def test_the_training_step_learns(record_property):
    torch.manual_seed(0)
    pairs = SiameseMNIST(digits(train=True, labels=(0, 1), each=16))
    # Digits that are told apart at a glance.
    pairs.data = (pairs.labels * 200).to(torch.uint8)[:, None, None].expand(-1, 28, 28).contiguous()
    pairs.transform = lambda image: torch.from_numpy(np.array(image)).float()[None] / 255
    network = SiameseNetwork()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        for number, batch in enumerate(torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True)):
            step = network.training_step(batch, number)
            optimiser.zero_grad()
            step["loss"].backward()
            optimiser.step()
            losses.append(step["log"]["train_loss"].item())
    assert step["embeddings"].shape == (8, 2) and set(step["labels"].tolist()) <= {0, 1}
    first, last = np.mean(losses[:4]), np.mean(losses[-4:])
    assert last < 0.5 * first
    record_property("loss before and after", f"{first:.4f}, {last:.4f}")
    with pytest.raises(InputError, match="a batch has 3 parts"):
        network.training_step((1, 2, 3), 0)
