"""Whether drawn images are nearer to what their client trained on than to what it held out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fedwarm.catalogue import parse
from fedwarm.data.settings import OWN, Data
from fedwarm.record.reading import Json, Run, mean
from fedwarm.report.samples import private
from fedwarm.report.sections import Section
from fedwarm.settings.fields import SettingError

POOLS, MOST_CLIENTS = "pool/pool-*.safetensors", 12


def found(run: Run) -> list[Json]:
    """A row a client; none where the run drew nothing, or its data cannot be had here, or are private."""
    pools = sorted(run.folder.glob(POOLS))
    if not pools or run.settings.get("data.name") == OWN:
        return []
    with suppress(ImportError, SettingError, OSError, ValueError, KeyError):
        return [] if private(run) else _rows(run, pools[-1])
    return []


def _rows(run: Run, pool: Path) -> list[Json]:
    from safetensors.torch import load_file

    from fedwarm.data import load_shard
    from fedwarm.diffusion.copying import copying

    drawn, data = load_file(pool), parse(run.settings).of(Data)
    rows: list[Json] = []
    for client in range(min(run.clients, MOST_CLIENTS)):
        shard = load_shard(data, run.seed, client, run.clients)
        told = copying(drawn["images"][drawn["clients"] == client], shard.train_images, shard.test_images, run.seed)
        if told is not None:
            rows.append({"client": run.called(client), "told": told})
    return rows


class Copies(Section):
    """Nearest training images against nearest held-out ones."""

    title, anchor, order = "Copies of training images", "copies", 12
    template = (
        "{% from 'macros.html.j2' import head, scroll %}"
        '<p class="soft">For each drawn image the nearest of a client’s training images and of as many held-out ones, by '
        "pixels. Where nothing is copied, half are nearer to a training image; here {{ shown.mean|percent }}. Adapters can hold "
        "training images that are never drawn: this is no proof of privacy.</p>\n"
        "{% call scroll('copies') %}<table>\n"
        "{{ head('client', ['drawn', 'references', 'nearer to training', 'distance to training', 'distance to held out']) }}\n"
        "<tbody>{% for row in shown.rows %}\n"
        '<tr><th scope="row">{{ row.client }}</th><td>{{ row.told.drawn }}</td><td>{{ row.told.references }}</td>'
        "<td>{{ row.told.nearer|percent }} <small>±&nbsp;{{ row.told.error|percent }}</small></td>"
        "<td>{{ row.told.training|number }}</td><td>{{ row.told.held|number }}</td></tr>\n"
        "{% endfor %}</tbody></table>{% endcall %}"
    )

    def shown(self, run: Run) -> Json | None:
        rows = found(run)
        return {"rows": rows, "mean": mean([row["told"].nearer for row in rows])} if rows else None


COMPONENT = Copies()
