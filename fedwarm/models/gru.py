"""A small recurrent network that reads a text token by token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Gru(Group, prefix="gru"):
    """Settings of the model `gru`."""

    width: int = setting(64, "units of the recurrent layer", low=1, high=4096)
    embedding: int = setting(24, "length of the vector that stands for a token", low=1, high=4096)
    answers: str = setting(
        "auto",
        "outputs of the model; places: one at every place of the text; text: one for the whole text; auto: places if "
        "there are as many outputs as tokens",
        choices=("auto", "places", "text"),
    )
    norm: str = setting(
        "none",
        "normalisation of the head's input; none; layer: LayerNorm, which FedBN keeps at each client",
        choices=("none", "layer"),
    )


class Reader(nn.Module):
    """Tokens int64 (b, T) to logits (b, T, outputs) at every place, or (b, outputs) by the mean over the places.

    With `gru.norm = layer` the head reads LayerNorm (Ba, Kiros, Hinton, arXiv 1607.06450) of its input.

    The cells are those of Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, arXiv 1406.1078.
    """

    def __init__(self, outputs: int, vocabulary: int, settings: Gru) -> None:
        super().__init__()
        self.places = settings.answers == "places" or (settings.answers == "auto" and outputs == vocabulary)
        self.embedding = nn.Embedding(vocabulary, settings.embedding)
        self.gru = nn.GRU(settings.embedding, settings.width, batch_first=True)
        self.norm = nn.LayerNorm(settings.width) if settings.norm == "layer" else nn.Identity()
        self.head = nn.Linear(settings.width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))
        found: Tensor = self.head(self.norm(states if self.places else states.mean(dim=1)))
        return found


@component(settings=Gru)
def gru(outputs: int, vocabulary: int, settings: Gru | None = None) -> nn.Module:
    """A GRU that reads tokens and answers at each place or for the whole text; 25,913 parameters for 97 tokens and outputs."""
    return Reader(outputs, vocabulary, settings or Gru())


COMPONENT = gru
