"""What holds of MyLanguageModel alone; of every one: test_language_networks.py."""

import torch

from project.starting_points.my_language_model import MyLanguageModel


def test_the_memory_has_one_size_however_long_the_text() -> None:
    network = MyLanguageModel(vocab_size=11, width=16)
    for length in (1, 40):
        _, state = network.extend(torch.randint(11, (2, length)))
        assert state.shape == (2, 16)
