"""The ServerApp of every method: settings in, strategy by name, run folder out."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedwarm.catalogue import parse
from fedwarm.core.compute import repeatable
from fedwarm.core.logs import structured
from fedwarm.core.progress import listening
from fedwarm.core.progress import log as log_progress
from fedwarm.models import on_gpu
from fedwarm.record.folder import RunFolder, runs_root
from fedwarm.rounds.attendance import on_real_nodes

from . import strategy_class

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the method that the settings name."""
    config = parse(context.run_config)
    torch.set_num_threads(config.run.server_threads)
    folder = RunFolder(Path(config.run.out) if config.run.out else runs_root() / f"{config.run.method}-{context.run_id}")
    if on_real_nodes(grid):
        logging.getLogger("flwr").info("the run is recorded on this machine, in %s", folder.path)
    heard = listening(log_progress, "server", only_if_nobody_listens=True)
    told = structured(run=str(context.run_id), node="server")
    with told, folder.lock.held(), heard, repeatable(on_gpu(config.run.device) and config.run.deterministic):
        if not config.run.resume:
            folder.refuse_other()
        strategy = strategy_class(config.run.method)(config, folder)
        strategy.summary()
        strategy.start(grid)
