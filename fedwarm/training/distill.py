"""Knowledge of one model for another: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation_term(student: Tensor, teacher: Tensor, selected: Tensor, temperature: float) -> Tensor:
    """mean_x s(x) T^2 KL(softmax(g(x)/T) || softmax(f(x)/T)); logits (b, classes), selected (b,) in {0, 1}."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return (selected * divergence).mean() * temperature**2
