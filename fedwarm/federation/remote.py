"""A federation whose processes run elsewhere, on other machines or in containers: called from here, never started or ended.

Only its address, its CA's certificate and the names of its nodes are kept. A run there writes its folder where SuperExec runs:
the folder that `--out` names must be the same one here (a shared volume) for the command to read results.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.core.files import copy_file, make_folder
from fedwarm.core.names import checked_name, place_of
from fedwarm.federation.control import ONLINE, Control, Seen, Unreachable, control
from fedwarm.federation.nodes import Tell
from fedwarm.federation.noting import note
from fedwarm.federation.settings import STATE, Federation, Node, flag, folder_of, load
from fedwarm.flower.certificates import ends, read_public
from fedwarm.node.key import fingerprint
from fedwarm.settings.fields import SettingError

POLL_SECONDS, TELL_SECONDS = 0.5, 10.0
LOOK = "see that it runs, and that port, CA and proxy are right"


def connect(
    said: str, superlink: str, authority: Path | None, keys: Mapping[str, Path], patience_seconds: float, tell: Tell
) -> Federation:
    """Remember a federation, and let nodes' keys in.

    Args:
        said: the name or folder that it gets here.
        superlink: host and port of its SuperLink, or of a proxy that lets control through; empty: as it is remembered.
        authority: the file of its CA's certificate; None: as it is remembered.
        keys: the files of public keys that are let in, by the name of the node.
        patience_seconds: how long the SuperLink may take to answer.
        tell: takes a line about what happens.

    Raises:
        SettingError: it cannot be as it was asked for.
        RunError: the SuperLink did not answer in time, or refused a key.
    """
    new, federation = not (folder_of(said) / STATE).is_file(), _known(said, superlink, authority)
    pems = {checked_name(name): read_public(path) for name, path in keys.items()}
    with control(federation, authority) as link:
        seen = _answering(link, federation, patience_seconds, tell)
        _remember(federation, authority)
        if new:
            note(federation, "connected", superlink=federation.address)
        for name, pem in pems.items():
            if let_in(link, name, pem, seen, tell):
                note(federation, "registered", site=name, key=fingerprint(keys[name].read_bytes()))
        federation.nodes = _nodes(link.nodes())
    federation.save()
    return federation


def _known(said: str, superlink: str, authority: Path | None) -> Federation:
    folder = folder_of(said)
    known = (folder / STATE).is_file()
    federation = load(said) if known else Federation(folder.name, folder, remote=True)
    if not federation.remote:
        raise SettingError(f"federation {said!r} is one of processes on this machine; give another name by --federation")
    if not known and not (superlink and authority):
        raise SettingError(f"federation {said!r} is not known yet; name its SuperLink (--superlink HOST:PORT) and CA (--ca FILE)")
    if superlink:
        federation.host, federation.port = place_of(superlink, "--superlink")
    if authority is not None:
        if not authority.is_file():
            raise SettingError(f"--ca {authority}: there is no such file; give the certificate of the federation's CA")
        try:
            ends(authority)
        except (OSError, ValueError) as error:
            raise SettingError(f"--ca {authority} is no certificate ({error}); give that of the federation's CA") from None
    return federation


def _remember(federation: Federation, authority: Path | None) -> None:
    """Keep where the federation is, and its CA's certificate, now that it has answered."""
    make_folder(federation.folder)
    federation.folder.chmod(0o700)
    if authority is not None:
        copy_file(authority, federation.folder / "certificates" / "ca.crt")
    federation.save()


def _answering(link: Control, federation: Federation, patience_seconds: float, tell: Tell) -> list[Seen]:
    end, told = time.monotonic() + patience_seconds, time.monotonic()
    while True:
        try:
            return link.nodes()
        except Unreachable as error:
            if time.monotonic() > end:
                raise RunError(f"{error} at {federation.address}; {LOOK}") from None
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            tell(f"waiting for the SuperLink at {federation.address}, {end - told:.0f} s more at most")
        time.sleep(POLL_SECONDS)


def let_in(link: Control, name: str, key: bytes, seen: list[Seen], tell: Tell) -> bool:
    """Register the key (PEM) of a node; a new key of a known name replaces the old one.

    Returns:
        Whether the key was not registered before.

    Raises:
        RunError: the SuperLink refused it; an old key of that name then stays.
    """
    for each in seen:
        if each.key == key:
            tell(f"{name}: its key is registered already" + (f", by the name {each.name}" if each.name != name else ""))
            return False
    try:
        link.register(key, name)
    except Unreachable:
        raise
    except RuntimeError as error:
        raise RunError(f"the key of {name} was not registered: {error}; have that node make a new one") from None
    for each in seen:
        if each.name == name:
            link.unregister(each.node_id)
            tell(f"{name}: the key it had before is registered no more")
    tell(f"{name}: its key is registered")
    return True


def _nodes(seen: list[Seen]) -> list[Node]:
    named = sorted(each.name or f"node {each.node_id}" for each in seen)
    return [Node(name, number, 0) for number, name in enumerate(named)]


def reached(federation: Federation, said: str, tell: Tell) -> None:
    """Ask a federation that runs elsewhere who its nodes are; those that are not online are named.

    Raises:
        SettingError: it does not answer, or has no nodes.
    """
    try:
        with control(federation) as link:
            seen = link.nodes()
    except RunError as error:
        raise SettingError(f"federation {said!r}: {error} at {federation.address}; {LOOK}") from None
    here = [each for each in seen if each.status == ONLINE]
    federation.nodes = _nodes(here if federation.outside else seen)
    if not seen:
        how = f"register 'LINE'{flag(said)}" if federation.outside else f"connect{flag(said)} --node NAME=KEY.pub"
        raise SettingError(f"federation {said!r} has no nodes; `fedwarm federation {how}` lets one in")
    if federation.outside and not here:
        raise SettingError(f"no site of federation {said!r} is online; `fedwarm node run --kit FOLDER` starts one, at the site")
    away = sorted(each.name for each in seen if each.status != ONLINE)
    if away:
        tell(f"not online: {', '.join(away)}")
