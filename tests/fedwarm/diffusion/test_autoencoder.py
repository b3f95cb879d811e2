"""Between images and latents: as many at a time as there is room for, and nothing that overflows is taken for a picture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from fedwarm.diffusion.autoencoder import ROOM, decoded, encoded, picture_bytes, refuse_unknown, together
from fedwarm.settings.fields import SettingError

LATENTS = torch.ones(3, 4, 8, 8)


class Overflows(AutoencoderKL):
    """One whose second picture is beyond float16, and whose third is beyond all numbers if that is asked for."""

    def __init__(self, second: float = 7e4, last: float = 1.0) -> None:
        super().__init__()
        self.scale, self.asked = [1.0, second, last], list[tuple[torch.dtype, int]]()

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """One alone is the second."""
        self.asked.append((latents.dtype, len(latents)))
        scale = torch.tensor(self.scale if len(latents) > 1 else self.scale[1:2]).to(latents.dtype).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=latents[:, :3] * self.config.scaling_factor * scale)


def layout(width: int, dtype: torch.dtype) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(block_out_channels=[width, width]), dtype=dtype)


def test_as_many_as_there_is_room_for() -> None:
    small, large = layout(32, torch.float32), layout(128, torch.bfloat16)
    assert together(small, 32, 32) == 32 and together(large, 512, 32) == 4 and together(large, 1024, 8) == 1
    assert together(layout(128, torch.float32), 2048, 8) == 1
    for side in (256, 512):
        assert together(large, side, 10**6) * picture_bytes(large, side, 2) <= ROOM


def test_what_overflows_in_half_precision_is_decoded_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    vae = Overflows().to(torch.float16)
    images = decoded(vae, LATENTS)
    assert vae.asked == [(torch.float16, 3), (torch.float32, 1)] and vae.dtype == torch.float16
    assert images[:, 0, 0, 0].tolist() == pytest.approx([1.0, 7e4, 1.0], rel=1e-3)
    assert not [record for record in caplog.records if record.name == "fedwarm"]
    others = decoded(Overflows(second=1.0).to(torch.float16), LATENTS)
    assert torch.equal(images[[0, 2]], others[[0, 2]]), "what overflows changes no other image"


def test_an_image_that_is_not_finite_is_grey_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    vae = Overflows(last=float("nan"))
    with caplog.at_level("WARNING", logger="fedwarm"):
        images = decoded(vae, LATENTS)
    assert vae.asked == [(torch.float32, 3)] and images[:, 0, 0, 0].tolist() == pytest.approx([1.0, 7e4, 0.0])
    assert caplog.messages == ["fedwarm: an image is not finite and becomes grey; set diffusion.precision='fp32'"]


def test_scale_and_shift_go_there_and_back() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4, scaling_factor=0.5, shift_factor=0.25).eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        plain = vae.encode(images).latent_dist.mean
        assert torch.equal(encoded(vae, images), (plain - 0.25) * 0.5)
        assert torch.equal(decoded(vae, (plain - 0.25) * 0.5), vae.decode((plain - 0.25) * 0.5 / 0.5 + 0.25).sample)


def test_latents_with_means_of_their_own_are_refused() -> None:
    refuse_unknown(AutoencoderKL().config, "mine")
    with pytest.raises(SettingError, match=r"'mine' has an autoencoder with means and deviations .*; give another foundation"):
        refuse_unknown(AutoencoderKL(latents_mean=(0.0, 0.0, 0.0, 0.1)).config, "mine")
