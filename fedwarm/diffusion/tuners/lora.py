"""LoRA on the whole net, in memory (Hu et al., arXiv 2106.09685); its steps can be made private."""

from __future__ import annotations

from fedwarm.diffusion.tuners import Tuner


class Lora(Tuner):
    """LoRA on the whole net, in memory."""

    private = True


COMPONENT = Lora
