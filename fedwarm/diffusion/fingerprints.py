"""What two machines compare to know that they have the same foundation."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from fedwarm.diffusion.families import family_of, usual_family

TEXT = ("hidden_act", "layer_norm_eps", "num_attention_heads")  # of a text encoder: what its weights do not show


def fingerprint(pipe: Any) -> str:
    """SHA-256 over what draws an image: every model's configuration, names, shapes and first 256 values of its weights (an
    adapter's are left out), the words of the tokenizer and the scheduler's configuration.

    Values are rounded to float16: files of a foundation in either precision are the same one.
    """
    digest, family = hashlib.sha256(), family_of(type(pipe).__name__) or usual_family()
    for part in family.models:
        model = getattr(pipe, part)
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                continue
            own = name.replace(".base_layer", "").removeprefix("text_model.")  # a name of transformers' that comes and goes
            head = parameter.detach().flatten()[:256].half().float().cpu().numpy().tobytes()
            digest.update(f"{part}.{own}{tuple(parameter.shape)}".encode() + head)
    told: list[Any] = [_told(getattr(pipe, family.net)), _told(pipe.vae), _told(pipe.scheduler)]
    for tokenizer, encoder in zip(family.tokenizers, family.encoders, strict=True):
        told.append({key: getattr(getattr(pipe, encoder).config, key) for key in TEXT})
        told.append(sorted(getattr(pipe, tokenizer).get_vocab().items()))
    digest.update(json.dumps(told, sort_keys=True).encode())
    return digest.hexdigest()


def _told(part: Any) -> dict[str, Any]:
    """A configuration of diffusers' without notes of its own and without what is its class's default."""
    usual = {name: parameter.default for name, parameter in inspect.signature(type(part).__init__).parameters.items()}
    plain = {key: value for key, value in part.config.items() if not key.startswith("_") and value != usual.get(key)}
    return {"class": type(part).__name__, **json.loads(json.dumps(plain, default=str))}
