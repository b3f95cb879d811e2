"""The command `fedwarm privacy`: epsilon of a plan, or the noise that a target takes, without a run."""

from __future__ import annotations

from typing import Annotated

import typer

from fedwarm.core.terminal import put


def privacy(
    context: typer.Context,
    mechanism: Annotated[
        str | None, typer.Option(help="coding (default), poisson, gaussian, server, or dp-sgd: noise in local training")
    ] = None,
    target_epsilon: Annotated[float | None, typer.Option(help="find the noise that reaches this epsilon")] = None,
    sigma: Annotated[float | None, typer.Option(help="scale of the noise of one update")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="noise relative to clip: z = sqrt(n) sigma / C for n updates in a sum")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="C, norm to which updates, or gradients of examples, are clipped; default 1")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="delta of the guarantee; default 1e-5")] = None,
    bits: Annotated[int | None, typer.Option(help="bits of a block; default 7")] = None,
    blocks: Annotated[int | None, typer.Option(help="blocks of a message; default: by the rule for --block-size")] = None,
    block_size: Annotated[int | None, typer.Option(help="numbers in a block, instead of --blocks")] = None,
    block_norm: Annotated[float | None, typer.Option(help="poisson: largest norm of a block over sigma; default 0.6")] = None,
    update_size: Annotated[int | None, typer.Option(help="numbers in an update (the model's parameters)")] = None,
    view: Annotated[str | None, typer.Option(help="local (default), central_certified or central_limit")] = None,
    adjacency: Annotated[str | None, typer.Option(help="zero_out (default) or replacement")] = None,
    cohort: Annotated[int | None, typer.Option(help="clients that take part in a round")] = None,
    population: Annotated[int | None, typer.Option(help="all clients, of which a round draws its cohort")] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds; default: as many as --participations, else 1")] = None,
    participations: Annotated[int | None, typer.Option(help="most rounds of one client (local view); default: all")] = None,
    rate: Annotated[float | None, typer.Option(help="dp-sgd: chance that an example is drawn for a step")] = None,
    steps: Annotated[int | None, typer.Option(help="dp-sgd: steps in all rounds")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="print how many clients, rounds and bits reach --target-epsilon for --update-size")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Compute the epsilon of a plan, or the noise for a target epsilon, without a run.

    E.g. `fedwarm privacy --bits 7 --blocks 4 --sigma 2 --participations 8`, or the same with --target-epsilon 3 for --sigma 2;
    or `fedwarm privacy --plan --target-epsilon 3 --update-size 970` for how many clients, rounds and bits that takes.
    """
    import json

    from fedwarm.codecs.dp_rec.planning import plans
    from fedwarm.codecs.dp_rec.pricing import answer
    from fedwarm.codecs.dp_rec.question import Question

    given = {name: value for name, value in context.params.items() if value is not None and name not in ("as_json", "plan")}
    found = plans(given) if plan else answer(Question(**given))
    put(json.dumps(found.json()) if as_json else "\n".join(found.lines()))
