"""`fedwarm foundation`: text-to-image foundations of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.help import App

app = App("Train text-to-image foundations.")
GIVEN = ("vae_steps", "unet_steps", "images", "batch_size", "vae_learning_rate", "unet_learning_rate", "hands", "contours", "snr")


@app.command("train")
def foundation_train(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="name of the foundation: glyph (part of fedwarm), or any other together with --data")
    ],
    data: Annotated[str, typer.Option(help="data set whose public part it learns from, as for data.name")] = "",
    public_share: Annotated[float | None, typer.Option(help="fraction of every class that is public; default 0.5")] = None,
    public_where: Annotated[
        str | None, typer.Option(help="rows that are public, in the place of a fraction: column=value, e.g. domain=photo")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="initial weights; glyph (default): those of glyph; scratch: random")
    ] = None,
    jitter: Annotated[
        float | None, typer.Option(help="pictures are shifted and scaled at random by up to this fraction; default 0.04")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="column of the images; default: found")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the labels; default: found")] = None,
    out: Annotated[Path | None, typer.Option(help="folder, new or of this training; default foundations/NAME")] = None,
    seed: Annotated[int, typer.Option(help="seed of weights, pictures and their order")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads; 0: one per core; changes the last bits of the result")] = 0,
    vae_steps: Annotated[int, typer.Option(min=0, help="training steps of the autoencoder; 0: as in the recipe")] = 0,
    unet_steps: Annotated[int, typer.Option(min=0, help="training steps of the denoiser; 0: as in the recipe")] = 0,
    images: Annotated[int, typer.Option(min=0, help="pictures that the denoiser is trained on; 0: as in the recipe")] = 0,
    judged: Annotated[
        int, typer.Option(min=1, help="images drawn in the end at each of two guidance scales, for a judge; with --data alone")
    ] = 400,
    batch_size: Annotated[int, typer.Option(min=0, help="pictures in a training step; 0: as in the recipe")] = 0,
    vae_learning_rate: Annotated[float, typer.Option(min=0, help="learning rate of the autoencoder; 0: as in the recipe")] = 0.0,
    unet_learning_rate: Annotated[float, typer.Option(min=0, help="learning rate of the denoiser; 0: as in the recipe")] = 0.0,
    hands: Annotated[int, typer.Option(min=0, help="handwritings by procedure beside fonts; glyph alone; 0: as in recipe")] = 0,
    contours: Annotated[
        float, typer.Option(min=0, help="weight of contours in the autoencoder's loss; 0: as in the recipe")
    ] = 0.0,
    snr: Annotated[float, typer.Option(min=0, help="min-SNR weights of noise levels, e.g. 5; 0: as in the recipe")] = 0.0,
    device: Annotated[str, typer.Option(help="where it trains: cpu, cuda or auto; changes the last bits of the result")] = "cpu",
    run_config: Annotated[
        list[str] | None, typer.Option("-c", "--run-config", help="reading of pictures: data.bits=12 ..")
    ] = None,
) -> None:
    """Train a foundation: glyph on digits of fonts and a simulated pen (an hour on two cores), or your own on public images.

    E.g. `fedwarm foundation train mnist --data PATH --public-share 0.5`; runs then use diffusion.foundation='foundations/mnist'
    and data.public-share=0.5. The same command continues an interrupted training.
    """
    from fedwarm.cli.foundations import Training, train_foundation
    from fedwarm.core.capacity import cores

    given = context.params
    recipe = {key: given[key] for key in GIVEN if given[key]}
    recipe |= {"seed": seed, "threads": threads or cores()}
    options = ("public_share", "public_where", "from_", "jitter", "image_column", "label_column")
    public = {key.rstrip("_").replace("_", "-"): given[key] for key in options if given[key] is not None}
    train_foundation(Training(name, out, recipe, data, public, tuple(run_config or ()), judged, device))


@app.command("classifier")
def foundation_classifier(
    out: Annotated[Path, typer.Argument(help="file to write, NAME.safetensors; runs take it as model.weights")],
    images: Annotated[int, typer.Option(min=60, help="digits of fonts and pen to learn from, where no data are public")] = 20_000,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of training")] = 8,
    seed: Annotated[int, typer.Option(help="seed of weights, renders and their order")] = 0,
    device: Annotated[str, typer.Option(help="where it trains: cpu, cuda or auto; changes the last bits of the result")] = "cpu",
    run_config: Annotated[
        list[str] | None, typer.Option("-c", "--run-config", help="settings of the runs that it is for: model.*, data.*, ..")
    ] = None,
) -> None:
    """Train a classifier on what a foundation learned from: the public start that a drawn one has to be compared with.

    Without a public part (data.public-share, data.public-where) these are the digits that the embedded foundation was trained on.
    """
    from fedwarm.cli.classifier import Wanted, train_classifier

    train_classifier(Wanted(out, run_config or (), images, epochs, seed, device))
