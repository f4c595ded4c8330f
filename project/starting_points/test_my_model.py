"""What holds of MyModel alone; what holds of every network: test_image_networks.py."""

import torch

from project.starting_points.my_model import MyModel


def test_images_of_any_size_have_the_same_weights() -> None:
    small, large = MyModel(image_size=8), MyModel(image_size=32)
    large.load_state_dict(small.state_dict())
    assert large(torch.randn(2, 1, 32, 32)).shape == (2, 10)
