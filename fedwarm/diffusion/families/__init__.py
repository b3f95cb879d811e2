"""Families of foundations: pipelines of diffusers that read a sentence, are told noise and time, and are tuned in the same way.

A family is known by the class that a pipeline's `model_index.json` names. What it is told of a sentence goes in one tensor a
sentence, whatever the net takes in how many parts: so tuning, drawing and private training are the same for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import FAMILIES

Net = Callable[..., Any]
ENCODER, TOKENIZER = "text_encoder", "tokenizer"
LOG = logging.getLogger("fedwarm")
_cut: set[str] = set()


class Family:
    """A family, which as it stands has one text encoder, a U-Net that is told nothing more, and a schedule of noise.

    Attributes:
        pipelines: the classes of diffusers' that are of it.
        net: the part that denoises; adapters are attached to it.
        encoders: the text encoders; each has a tokenizer of the like name.
        left_out: parts that are neither loaded nor downloaded.
        arguments: switches of the pipeline's class that are to be off for that.
        flow: whether it follows straight paths from noise instead of a schedule of noise, which not every sampler can.
        wide: whether its autoencoder needs float32 where the rest computes in half precision, if its configuration says so.
        usual: settings that do well with its published models, by key, where nobody says otherwise.
        licence: what is to be known of its terms and of what is left out, in a sentence.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    net: ClassVar[str] = "unet"
    encoders: ClassVar[tuple[str, ...]] = (ENCODER,)
    left_out: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[tuple[str, ...]] = ()
    flow: ClassVar[bool] = False
    wide: ClassVar[bool] = False
    usual: ClassVar[Mapping[str, Value]] = {}
    licence: ClassVar[str] = ""

    @property
    def without(self) -> dict[str, None]:
        """What is left out, as diffusers takes it."""
        return dict.fromkeys(self.left_out)

    @property
    def models(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return (self.net, "vae", *self.encoders)

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The parts that turn sentences into tokens, in the encoders' order."""
        return tuple(name.replace(ENCODER, TOKENIZER) for name in self.encoders)

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts that a pipeline's folder must hold."""
        return (*self.models, *self.tokenizers, "scheduler")

    def step(self, pipe: Any) -> int:
        """What the side of its images must be a multiple of, in pixels."""
        halvings = len(getattr(pipe, self.net).config.block_out_channels) - 1
        return int(pipe.vae_scale_factor) << halvings

    def largest(self, pipe: Any) -> int:
        """The largest side of its images, in pixels; 0: there is none."""
        return 0

    def embed(self, pipe: Any, prompt: str, device: torch.device) -> Tensor:
        """What the net is told of a sentence: (1, tokens, width)."""
        tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
        states: Tensor = encoder(tokens(tokenizer, encoder, prompt).to(device))[0]
        return states

    def told(self, pipe: Any) -> tuple[int, int]:
        """Tokens and width of what `embed` gives, by the configurations alone."""
        config = pipe.text_encoder.config
        return int(config.max_position_embeddings), int(config.hidden_size)

    def predict(self, pipe: Any, net: Net, noisy: Tensor, time: Tensor, context: Tensor, side: int) -> Tensor:
        """What the net says of noisy latents.

        Args:
            pipe: its pipeline, for its configurations.
            net: the part that denoises, or a function with its arguments.
            noisy: (n, c, h, w).
            time: one for all, or (n,).
            context: (n, tokens, width), as `embed` gives it.
            side: of the images in pixels.
        """
        said: Tensor = net(noisy, time, context).sample
        return said

    def is_wide(self, vae: Any) -> bool:
        """Whether an autoencoder of it computes in float32, whatever the rest does."""
        return self.wide and bool(vae.config.get("force_upcast"))

    def refuse_schedule(self, scheduler: Any, source: str) -> None:
        """Refuse a schedule of noise, or a target of the net, of another kind than this family's tuning and drawing are.

        Raises:
            SettingError: it is not known by betas, as EDM's are not, or the net says neither noise nor velocity.
        """
        told, kind = f"diffusion.foundation = {source!r} has", type(scheduler).__name__
        target = scheduler.config.get("prediction_type", "epsilon")
        if self.flow:
            return
        if "beta_schedule" not in scheduler.config:
            raise SettingError(f"{told} the scheduler {kind}, whose noise has no betas, and cannot be used; give another one")
        if target not in ("epsilon", "v_prediction"):
            raise SettingError(
                f"{told} a net that says {target!r}, and not noise or velocity, and cannot be used; give another one"
            )

    def noise_schedule(self, pipe: Any) -> Any:
        """The schedule of noise of its training, whatever its sampler."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(pipe.scheduler.config)

    def times(self, schedule: Any, count: int, draws: torch.Generator) -> Tensor:
        """Times (count,) of examples, as in its training."""
        return torch.randint(schedule.config.num_train_timesteps, (count,), generator=draws)

    def noised(self, schedule: Any, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, c, h, w) with noise at their times (n,), and what the net is to say of them: the noise, or the velocity.

        Worked out in float32: in bfloat16 one less a small step's part, .9991, is 1, and the noise of early times would be wrong.
        """
        exact = clean.float(), noise.float()
        velocity = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(*exact, times) if velocity else noise
        return schedule.add_noise(*exact, times).to(clean.dtype), target

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An adapter's matrices by the names that diffusers' scripts save them by."""
        from diffusers.utils import convert_state_dict_to_diffusers

        found: dict[str, Tensor] = convert_state_dict_to_diffusers(dict(state))
        return found

    def loaded(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The matrices by peft's names, of those that `saved` gives them."""
        from diffusers.utils import convert_unet_state_dict_to_peft

        found: dict[str, Tensor] = convert_unet_state_dict_to_peft(dict(saved))
        return found


def tokens(tokenizer: Any, encoder: Any, prompt: str) -> Tensor:
    """A sentence's tokens (1, n), cut or filled up to what the encoder takes; that one is cut is said once."""
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    found: Tensor = tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    if prompt not in _cut and len(tokenizer(prompt, truncation=True, max_length=length + 1, verbose=False).input_ids) > length:
        _cut.add(prompt)
        LOG.warning("fedwarm: the text encoder reads %d tokens of a sentence, and %r has more; shorten it", length, prompt)
    return found


def pooled_states(pipe: Any, prompt: str, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Of two encoders side by side: the layers before the last ones (1, tokens, w1 + w2), and what each says of the whole."""
    hidden, whole = [], []
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        said = encoder(tokens(tokenizer, encoder, prompt).to(device), output_hidden_states=True)
        hidden.append(said.hidden_states[-2])
        whole.append(said[0])
    return torch.cat(hidden, -1), whole


def side_by_side(pipe: Any) -> tuple[int, int]:
    """Tokens of two encoders, and the width of their states side by side."""
    first, second = pipe.text_encoder.config, pipe.text_encoder_2.config
    return int(first.max_position_embeddings), int(first.hidden_size + second.hidden_size)


def packed(hidden: Tensor, whole: Tensor) -> Tensor:
    """States (1, tokens, w) and one vector (1, p) of a sentence in one tensor: the vector is its last token."""
    wide = max(hidden.shape[-1], whole.shape[-1])
    return torch.cat([widened(hidden, wide), widened(whole[:, None], wide)], 1)


def unpacked(context: Tensor, states: int, whole: int) -> tuple[Tensor, Tensor]:
    """States (n, tokens, w) and vectors (n, p) out of `packed`, by their widths."""
    return context[:, :-1, :states], context[:, -1, :whole]


def widened(values: Tensor, width: int) -> Tensor:
    """With zeros behind, up to a width."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def family_of(pipeline: object) -> Family | None:
    """The family that a pipeline's class is of, by its name; None where it is of none."""
    return next((found for name in FAMILIES if pipeline in (found := FAMILIES.load(name)).pipelines), None)


def usual_family() -> Family:
    """The family of foundations that say nothing else of themselves."""
    found: Family = FAMILIES.load(FAMILIES.first)
    return found


def known_pipelines() -> tuple[str, ...]:
    """The classes of all families."""
    return tuple(pipeline for name in FAMILIES for pipeline in FAMILIES.load(name).pipelines)
