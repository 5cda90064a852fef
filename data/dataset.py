"""Images of a list, one by one: read, decoded, transformed."""

import torch
from torch.utils.data import Dataset

from data.image.decode import cut, open_image


class ImageDataset(Dataset):
    """Draws to (uint8 tensor (height, width, 3), label, index); each draw's augmentation follows from its own seed."""

    def __init__(self, images, labels, transform, decode, cache):
        self.images, self.labels, self.transform = images, labels, transform
        self.decode, self.cache = decode, cache

    def __len__(self):
        return len(self.images)

    def __getitem__(self, draw):
        path, box = self.images.paths[draw.index], self.images.box_of(draw.index)
        read = self.cache.read(path)
        image = open_image(self.decode, read, path, box) if self.cache.kind == "encoded" else cut(read, path, box)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transform(image), self.labels[draw.index], draw.index
