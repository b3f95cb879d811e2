"""Commands that make something ahead of a run or out of one: images for class gaps, a quantized model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Settings
from fedwarm.core.terminal import put


def augment(
    seed: Annotated[int | None, typer.Option(help="seed of partition and images; that of the run they are for")] = None,
    clients: Annotated[int, typer.Option(help="number of clients; 0: what the data set suggests")] = 0,
    client: Annotated[int, typer.Option(min=-1, help="only this client, as on its own device; -1: all")] = -1,
    fill: Annotated[
        bool, typer.Option("--fill", help="generate the missing images; runs with the same settings use them")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="train classifiers that measure how recognisable and useful the images are")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="write an HTML page with the missing images before and after, and samples")
    ] = None,
    run_config: Settings = None,
) -> None:
    """Show how many images each client lacks by class, and the cost of generating them (Gen-FedSD)."""
    from fedwarm.cli.augment import Work
    from fedwarm.cli.augment import augment as work

    put(work(Work(seed, clients, client, fill, audit, page, tuple(run_config or ()))))


def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    bits: Annotated[int, typer.Option(help="bits of a weight, 2 to 16; 32: float")] = 8,
    form: Annotated[str, typer.Option("--format", help="torch: packed safetensors; onnx: for onnxruntime")] = "torch",
    out: Annotated[Path | None, typer.Option(help="the file; default model-wBITS beside the run's model")] = None,
) -> None:
    """Write a run's global model, its weights quantized, as a file for devices."""
    from fedwarm.cli.export import NAME, export_run

    ending = {"torch": "safetensors", "onnx": "onnx"}.get(form, form)
    done, saved = export_run(run, bits, form, out or run / f"{NAME}{bits}.{ending}")
    put(done.text)
    if saved:
        put(saved)
