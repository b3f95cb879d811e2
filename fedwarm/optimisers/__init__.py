"""Optimisers of local training: each a function (parameters, plan) -> `torch.optim.Optimizer`, or with its settings behind.

`plan` gives step size, momentum and weight decay. The steps go along the parameters' `grad`, whoever put it there: a private
mechanism's gradient and a hook's correction are as good as the loss's own. One whose steps are a linear function of the gradients
has the fact `path`, a function (step sizes, momentum) -> how far a constant gradient of length 1 leads, its settings behind.
One that treats each weight by itself, whatever the others are, has the fact `elementwise`: then clients can train together.
"""

from __future__ import annotations

from fedwarm.training.light import Light as Light
