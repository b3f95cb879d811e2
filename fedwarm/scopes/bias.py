"""BitFit: Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022, arXiv 2106.10199; in federated learning: Sun, Khalid, Mendieta, Wang, Chen, "Exploring
Parameter-Efficient Fine-Tuning to Enable Foundation Models in Federated Learning", arXiv 2210.01708.
"""

from __future__ import annotations

import re

from torch import nn

from fedwarm.scopes import train_only
from fedwarm.settings.fields import SettingError

BIAS = re.compile(r"(.*_)?bias(_.*)?")  # of attention and recurrent layers, too: in_proj_bias, bias_ih_l0


def bias(model: nn.Module, head: tuple[str, ...]) -> None:
    """All biases, those of normalisation, attention and recurrent layers among them, and the last layer.

    Raises:
        SettingError: no layer but the last has a bias.
    """
    names = {name for name, _ in model.named_parameters() if BIAS.fullmatch(name.rpartition(".")[2])}
    if not names - {*head}:
        raise SettingError(
            "model.train = 'bias' finds no bias outside of the last layer; use model.train = 'lora' or 'head', or another "
            "model.name"
        )
    train_only(model, lambda name: name in names or name in head)


COMPONENT = bias
