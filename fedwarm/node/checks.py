"""All that is looked at before a site joins. Nothing stops it: what depends on something that failed is not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedwarm.node.finding import FAULT, WARNING, Finding, unseen
from fedwarm.node.key import TOPIC as KEY
from fedwarm.node.key import look_at_key
from fedwarm.node.kit import KEY as PRIVATE
from fedwarm.node.kit import POLICY, TRUST, data_of, look_at_kit, read
from fedwarm.node.machine import look_at_machine
from fedwarm.node.network import look_at_network, parsed

if TYPE_CHECKING:
    from fedwarm.data.settings import Data

READY, TRAINING = "ready", "training"


@dataclass(frozen=True)
class Site:
    """What a node will be started with.

    Args:
        superlink: HOST:PORT; empty: not looked at, like all that is left out.
        authority: the CA's certificate.
        key: the node's private key.
        data: the folder of its pictures.
        reading: how the runs that it will take part in read data; None: as by default.
        kit: the site's folder, which says all of the above that is left out.
        trial: trains on data that are good, and says how fast; None: nothing is trained.
    """

    superlink: str = ""
    authority: Path | None = None
    key: Path | None = None
    data: Path | None = None
    reading: Data | None = None
    kit: Path | None = None
    trial: Callable[[Data], Iterator[Finding]] | None = None

    def told(self) -> Site:
        """With what its kit says.

        Raises:
            SettingError: there is none.
        """
        if self.kit is None:
            return self
        kit, own = read(self.kit), self.kit
        authority, key, data = self.authority or own / TRUST, self.key or own / PRIVATE, self.data or data_of(own)
        return replace(self, superlink=self.superlink or kit.superlink, authority=authority, key=key, data=data)


def look(site: Site) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Raises:
        SettingError: the address is none; nothing was looked at.
    """
    site = site.told()
    address = parsed(site.superlink) if site.superlink else None
    return _all(site, address)


def _all(site: Site, address: tuple[str, int] | None) -> Iterator[Finding]:
    if site.kit is not None:
        yield from look_at_kit(site.kit)
    reached = address is not None
    unasked = unseen("as --superlink is not given", "network")
    for each in unasked if address is None else look_at_network(*address, site.authority):
        reached &= each.level != FAULT
        yield each
    yield from unseen("as --key is not given", KEY) if site.key is None else look_at_key(site.key)
    if site.kit is not None:
        yield from _joining(site, site.kit, reached)
    yield from look_at_machine()
    yield from _of_data(site)


def _of_data(site: Site) -> Iterator[Finding]:
    """The data, and how fast they are trained on."""
    if site.data is None:
        yield from unseen("as --data is not given", "data", *([] if site.trial is None else [TRAINING]))
        return
    from fedwarm.data.settings import Data
    from fedwarm.node.data import look_at_data

    data, good = (site.reading or Data()).at(str(site.data.expanduser().absolute())), True
    for each in look_at_data(data):
        good &= each.level != FAULT
        yield each
    if site.trial is not None:
        yield from site.trial(data) if good else unseen("as the data cannot be used", TRAINING)


def _joining(site: Site, kit: Path, reached: bool) -> Iterator[Finding]:
    """What is tried for a site that joins by its kit."""
    from fedwarm.node.trying import look_at_policy, look_at_registration

    if reached and site.authority is not None and site.key is not None and site.key.is_file():
        yield look_at_registration(site.superlink, site.authority, site.key)
    yield look_at_policy(kit / POLICY)


def verdict(found: Sequence[Finding]) -> str:
    """The last line: `ready`, or how much is to be mended."""
    faults, warnings = (sum(each.level == level for each in found) for level in (FAULT, WARNING))
    if not faults:
        return READY
    more = f", and {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return f"not ready: {faults} fault{'s' if faults > 1 else ''} to be mended{more}"
