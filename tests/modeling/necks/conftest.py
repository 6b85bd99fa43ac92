import pytest
import torch


@pytest.fixture
def randomize():
    def randomize(module):
        """Give every parameter a size that matters, which the initial ones of 0.02 and 0 do not."""
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return module.eval()

    return randomize
