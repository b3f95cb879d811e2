"""A federation whose nodes are at sites of their own: founded here, with a kit for each site, whose key is made there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedwarm.core.failures import RunError
from fedwarm.core.files import write_text
from fedwarm.core.names import address_of, checked_host, checked_name, place_of
from fedwarm.core.version import VERSION
from fedwarm.federation.control import Control, Seen, Unreachable, control
from fedwarm.federation.nodes import Tell
from fedwarm.federation.noting import note
from fedwarm.federation.processes import end, living, start
from fedwarm.federation.remote import let_in
from fedwarm.federation.settings import STATE, SUPERLINK, Federation, flag, folder_of, load, locked, refuse_remote, refuse_used
from fedwarm.flower.certificates import ensure_certificates, public_of, read_public
from fedwarm.flower.processes import LOOPBACK, free_ports, healthy
from fedwarm.node.key import fingerprint as key_print
from fedwarm.node.kit import COMPOSE, POLICY, README, SERVICE, TRUST, Kit, fingerprint, packed
from fedwarm.settings.fields import SettingError, near

SITES, PROXY, PUBLIC = "sites", "proxy.conf", ".pub"
KEY = re.compile(r"ecdsa-sha2-nistp(256|384|521)")
ANSWER_SECONDS = 60.0


def found(said: str, host: str, port: int, sites: int, listen: str) -> Federation:
    """Make the folder of a federation whose nodes are elsewhere; nothing runs yet.

    Args:
        said: its name or folder.
        host, port: by which sites call it.
        sites: how many there may be.
        listen: the address at which the SuperLink itself takes everybody at that port; empty: loopback, behind a proxy.

    Raises:
        SettingError: there is one of this name, or an address is none.
    """
    folder = folder_of(said)
    if (folder / STATE).is_file():
        raise SettingError(f"there is a federation {said!r} already; `fedwarm federation kit SITE{flag(said)}` adds a site to it")
    refuse_used(folder)
    host, listen = checked_host(host, "--host"), listen and checked_host(listen, "--listen")
    if sites < 1:
        raise SettingError(f"--sites {sites} is too few; it must be at least 1")
    own = port if listen else free_ports(1)[0]
    outside = address_of(host, port)
    federation = Federation(folder.name, folder, host=listen or LOOPBACK, port=own, outside=outside, most_sites=sites)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    equip(federation)
    federation.save()
    note(federation, "founded", outside=federation.outside)
    return federation


def equip(federation: Federation, anew: bool = False) -> bool:
    """See that certificates (the server's `anew`) and the proxy's configuration are there; whether a certificate was made."""
    host, port = place_of(federation.outside, "--address")
    addresses = list(dict.fromkeys([LOOPBACK, "localhost", federation.reach, host]))
    (federation.folder / "certificates").mkdir(exist_ok=True, mode=0o700)
    made = ensure_certificates(federation.folder / "certificates", federation.name, addresses, anew=anew)
    if port != federation.port:
        facts = {"name": federation.name, "folder": federation.folder, "address": federation.address, "port": port}
        write_text(federation.folder / PROXY, _filled("proxy.conf", facts))
    return made


def reload(federation: Federation) -> str:
    """What a person has to do for a proxy that goes on showing the certificate of before; empty where there is none."""
    proxy = federation.folder / PROXY
    return f"; a proxy reads it by `nginx -c {proxy} -s reload`" if proxy.is_file() else ""


def make_kit(said: str, site: str, out: Path | None, address: str = "", sites: int = 0) -> tuple[Kit, Path]:
    """Write a site's kit; a site that has one keeps its number.

    Args:
        said: the federation.
        site: the site's name.
        out: the file; None: SITE.zip here.
        address: HOST:PORT by which sites call the federation; empty: as it was founded or told before.
        sites: how many sites there may be; 0: as before.

    Raises:
        SettingError: there are as many sites as may be, there may be fewer than there are, or the address is none.
    """
    checked_name(site)
    if address:
        place_of(address, "--address")
    with locked(folder_of(said)):
        federation = load(said)
        if federation.insecure or federation.authority is None:
            raise SettingError(f"federation {said!r} has no TLS and keys, as sites need; `federation new` makes one with both")
        if not federation.remote and not federation.outside:
            raise SettingError(f"the nodes of federation {said!r} are on this machine; `fedwarm federation new` founds another")
        if 0 < sites < len(federation.sites):
            has = f"federation {said!r} has {len(federation.sites)} sites, which keep their numbers"
            raise SettingError(f"--sites {sites} is too few: {has}; give at least as many, or leave it out")
        federation.outside, federation.most_sites = address or federation.outside, sites or federation.most_sites
        if not federation.outside or not federation.most_sites:
            raise SettingError("give --address HOST:PORT, by which sites call, and --sites N, how many there may be")
        if site not in federation.sites:
            if len(federation.sites) >= federation.most_sites:
                more = f"`--sites {federation.most_sites + 1}` lets one more in, from the next run on"
                raise SettingError(f"federation {said!r} has {federation.most_sites} sites and may have no more; {more}")
            federation.sites.append(site)
        federation.save()
    trust = federation.authority.read_bytes()
    number = federation.sites.index(site)
    versions = {"fedwarm": VERSION, "flwr": version("flwr")}
    kit = Kit(federation.name, site, federation.outside, number, federation.most_sites, fingerprint(trust), **versions)
    facts = {"kit": kit, "host": place_of(federation.outside, "--address")[0]}
    texts = [(name, _filled(name, facts)) for name in (POLICY, COMPOSE, SERVICE, README)]
    file = out or Path(f"{site}.zip")
    packed(kit, [(TRUST, trust.decode()), *texts], file)
    note(federation, "kit", site=site, partition=number)
    return kit, file


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(loader=PackageLoader("fedwarm.federation"), undefined=StrictUndefined, keep_trailing_newline=True)


def _filled(name: str, facts: Mapping[str, object]) -> str:
    return _templates().get_template(f"{name}.j2").render(**facts)


def register(said: str, line: str, tell: Tell) -> str:
    """Let a site's key in by the line that the site sent; its name.

    Raises:
        SettingError: it is no such line, the site has no kit, or the key is another site's.
        RunError: the SuperLink refused it.
    """
    words = line.split()
    if len(words) != 3 or not KEY.fullmatch(words[0]):
        raise SettingError("the line must be a public key and a site's name, as `fedwarm node join` printed it: quote all of it")
    federation, site = load(said), words[2]
    if site not in federation.sites:
        raise SettingError(
            f"{site!r} has no kit{near(site, federation.sites)}; `fedwarm federation kit {site}{flag(said)}` makes one"
        )
    _refuse_shared(federation, site, words[1])
    pem = _key_of(words)
    running = federation.remote or living(federation, SUPERLINK) is not None
    if running:
        with control(federation) as link:
            let_in(link, site, pem, link.nodes(), tell)
    write_text(federation.folder / SITES / f"{site}{PUBLIC}", f"{words[0]} {words[1]} {site}\n")
    note(federation, "registered", site=site, key=key_print(line.encode()))
    if not running:
        tell(f"{site}: its key is kept, and let in by `fedwarm federation up{flag(said)}`")
    return site


def _key_of(words: Sequence[str]) -> bytes:
    try:
        return public_of(" ".join(words).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise SettingError("the line's key is cut short or changed; have it sent again") from None


def _refuse_shared(federation: Federation, site: str, key: str) -> None:
    for path in (federation.folder / SITES).glob(f"*{PUBLIC}"):
        if path.stem != site and key in path.read_text(encoding="utf-8").split():
            raise SettingError(f"this key is the one of {path.stem!r}; each site makes its own by `fedwarm node join`")


def let_sites_in(federation: Federation, link: Control, tell: Tell) -> None:
    """Let all keys in that are kept and that the SuperLink does not know, as after it lost its database; a refusal is told of."""
    seen = link.nodes()
    known = {each.key for each in seen}
    for path in sorted((federation.folder / SITES).glob(f"*{PUBLIC}")):
        if (pem := read_public(path)) in known:
            continue
        try:
            let_in(link, path.stem, pem, seen, tell)
        except Unreachable:
            raise
        except RunError as error:
            tell(str(error))


def revoke(said: str, site: str, tell: Tell) -> None:
    """Let a site in no more; it keeps its number, and a new key of its name can be registered.

    Raises:
        SettingError: there is no such site.
    """
    federation = load(said)
    path = federation.folder / SITES / f"{site}{PUBLIC}"
    running = federation.remote or living(federation, SUPERLINK) is not None
    seen: list[Seen] = []
    if running:
        with control(federation) as link:
            seen = [each for each in link.nodes() if each.name == site]
            for each in seen:
                link.unregister(each.node_id)
    if not seen and not path.is_file():
        which = f"{near(site, federation.sites)}; `fedwarm federation status{flag(said)}` lists whom it has"
        raise SettingError(f"federation {said!r} has let in no {site!r}{which}")
    path.unlink(missing_ok=True)
    note(federation, "revoked", site=site)
    tell(f"{site}: its key is registered no more" + ("" if seen else "; the SuperLink did not know it"))


def renew(said: str, tell: Tell) -> Federation:
    """Issue the SuperLink's certificate anew, and start a SuperLink that runs again: runs go on, as it is back within a minute.

    Raises:
        SettingError: it runs elsewhere, or has no certificate.
        RunError: the SuperLink did not come back.
    """
    federation = load(said)
    refuse_remote(federation, said, "renew it there: `docker compose up -d --force-recreate setup proxy superlink`")
    if not federation.outside:
        raise SettingError(f"federation {said!r} has no sites elsewhere; `fedwarm federation up{flag(said)}` renews")
    with locked(federation.folder):
        equip(federation, anew=True)
        note(federation, "renewed")
        tell(f"the certificate is issued anew; sites need nothing, as the CA has the same key{reload(federation)}")
        if living(federation, SUPERLINK) is not None:
            end(federation, [SUPERLINK])
            start(federation, SUPERLINK)
            _answers(federation)
            tell(f"superlink: answers at {federation.address}")
    return federation


def _answers(federation: Federation) -> None:
    from fedwarm.federation.nodes import watch

    end_at = time.monotonic() + ANSWER_SECONDS
    while not healthy(federation.port, federation.reach, federation.authority):
        watch(federation, [SUPERLINK], end_at, "answering")
