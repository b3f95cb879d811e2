"""What a site has of its federation: a kit, unpacked into a folder, with a private key that is made there and never leaves it.

A kit is one zip file without secrets: `kit.json` (names, address, versions, the CA's fingerprint), `ca.crt`, `policy.toml`,
`compose.yaml`, `fedwarm-node.service` and a README. Beside them the site has `key`, `key.pub` and `site.json`.
"""

from __future__ import annotations

import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedwarm.core.chain import FILE
from fedwarm.core.files import make_folder, read_object, replacing, write_text
from fedwarm.core.names import checked_name, place_of
from fedwarm.core.version import VERSION, fits
from fedwarm.data.settings import DATA_FOLDER
from fedwarm.flower.certificates import ensure_node_key, public_file
from fedwarm.node.finding import Finding, fault, ok
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.text import pair

TOPIC, SCHEMA = "kit", 1
TELLS, TRUST, POLICY, KEY, SITE, STATE = "kit.json", "ca.crt", "policy.toml", "key", "site.json", "state"
COMPOSE, SERVICE, README = "compose.yaml", "fedwarm-node.service", "README.md"
PARTS = (TELLS, TRUST, POLICY, COMPOSE, SERVICE, README)
LARGEST = 2**20
BROKEN = (KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a damaged, encrypted or foreign zip file raises, beside errors of the system."""
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,40}")


@dataclass(frozen=True)
class Kit:
    """What a federation tells a site of itself.

    Attributes:
        federation, site: their names.
        superlink: HOST:PORT.
        partition, partitions: the site's number, counted from 0, and how many there may be.
        fingerprint: SHA-256 of the CA's certificate.
        fedwarm, flwr: the versions of the server.
    """

    federation: str
    site: str
    superlink: str
    partition: int
    partitions: int
    fingerprint: str
    fedwarm: str
    flwr: str

    @property
    def text(self) -> str:
        """As `kit.json` holds it."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    def check(self) -> None:
        """See that each field is what it should be: a kit comes from outside, and a node is started with what it says.

        Raises:
            ValueError: one is not.
        """
        checked_name(self.federation)
        checked_name(self.site)
        place_of(self.superlink, "superlink")
        if not (type(self.partition) is type(self.partitions) is int and 0 <= self.partition < self.partitions):
            raise ValueError(f"partition {self.partition!r} of {self.partitions!r}")
        if not (_VERSION.fullmatch(self.fedwarm) and _VERSION.fullmatch(self.flwr)):
            raise ValueError(f"versions {self.fedwarm!r} and {self.flwr!r}")


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), as `openssl x509 -fingerprint -sha256` prints it."""
    digest = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    return ":".join(f"{byte:02X}" for byte in digest)


def read(folder: Path) -> Kit:
    """The kit that was unpacked into a folder.

    Raises:
        SettingError: there is none, or it was changed.
    """
    try:
        return _kit((folder / TELLS).read_text(encoding="utf-8"), (folder / TRUST).read_text(encoding="utf-8"), folder)
    except (OSError, UnicodeError) as error:
        raise SettingError(f"{folder} holds no kit that can be read ({error}); `fedwarm node join KIT.zip` unpacks one") from None


def _kit(told: str, trust: str, place: Path) -> Kit:
    """What the two parts of a kit say that a node is started with, which are a file's or a folder's (`place`).

    Raises:
        SettingError: they cannot be read, or do not belong together.
    """
    try:
        said = json.loads(told)
        if said.pop("schema") != SCHEMA:
            raise ValueError("it is of another version of fedwarm")
        kit = Kit(**said)
        kit.check()
        own = fingerprint(trust.encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(f"{place} holds no kit that can be read ({error}); ask for a new one") from None
    if own != kit.fingerprint or trust.count("-----BEGIN") != 1:
        raise SettingError(f"{place / TRUST} is not the CA that {TELLS} names; ask for the kit again, by a way that you trust")
    return kit


def join(file: Path, folder: Path | None, data: Path | None, trusted: str = "") -> tuple[Kit, str]:
    """Unpack a kit and make the site's key; a key and a policy that are there stay, so that a newer kit goes over an older.

    Args:
        file: the kit.
        folder: of the site, made if need be; None: the site's name, here.
        data: the folder of its data; None: as before, or none.
        trusted: the CA's fingerprint as the site was told it by another way; empty: not compared.

    Returns:
        The kit, and the line that the federation needs: the public key and the site's name.

    Raises:
        SettingError: it is no kit, is meant for another site than the folder's, or its CA is not the trusted one.
        DiskError: the folder cannot be written to.
    """
    parts = _unpacked(file)
    kit = _kit(parts[TELLS], parts[TRUST], file)
    if trusted and kit.fingerprint.replace(":", "") != trusted.replace(":", "").upper():
        raise SettingError(
            f"the CA in {file} has the fingerprint {kit.fingerprint}, not the one given; use neither, "
            "and ask for both again by a way that you trust"
        )
    folder = folder or Path(kit.site)
    if (before := read_object(folder / TELLS).get("site", kit.site)) != kit.site:
        raise SettingError(f"{folder} is the folder of the site {before!r}; take another one")
    make_folder(folder)
    ensure_node_key(folder / KEY)
    for name in PARTS:
        if name != POLICY or not (folder / name).exists():
            write_text(folder / name, parts[name])
    if data is not None:
        write_text(folder / SITE, json.dumps({"data": str(data.expanduser().absolute())}) + "\n")
    (folder / STATE).mkdir(exist_ok=True, mode=0o700)
    return kit, line(folder, kit.site)


def line(folder: Path, site: str) -> str:
    """The public key of a site, and its name: what `fedwarm federation register` takes."""
    return " ".join([*public_file(folder / KEY).read_text(encoding="utf-8").split()[:2], site])


def _unpacked(file: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: _part(archive, name) for name in PARTS}
    except (OSError, *BROKEN) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingError(f"{file} is no kit ({why}); `fedwarm federation kit SITE` writes one") from None


def _part(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as stream:
        return stream.read(LARGEST).decode()


def data_of(folder: Path) -> Path | None:
    """The folder of the site's data, as `join` was told it."""
    try:
        return Path(json.loads((folder / SITE).read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def arguments(folder: Path, data: Path | None = None, more: Mapping[str, Value] = MappingProxyType({})) -> list[str]:
    """What `flower-supernode` is started with for this site.

    Args:
        folder: of the site.
        data: in place of the folder of data that `join` was told.
        more: what the node's configuration holds beside what the kit says, e.g. limits.

    Raises:
        SettingError: there is no kit, `more` would replace what it says, a path cannot stand in a node's configuration, or the
            versions do not fit.
    """
    place = folder.expanduser().absolute()
    kit, data = read(place), data or data_of(place)
    if wrong := skew(kit):
        raise SettingError(wrong)
    paths = {"policy": place / POLICY, "client-folder": place / STATE, "audit": place / STATE / FILE, DATA_FOLDER: data}
    told = {key: quoted(str(path)) for key, path in paths.items() if path is not None}
    told |= {"site": f'"{kit.site}"', "partition-id": str(kit.partition), "num-partitions": str(kit.partitions)}
    if taken := sorted(more.keys() & told.keys()):
        raise SettingError(f"--node-config {taken[0]}: the kit says it; leave it out (--data FOLDER names other data)")
    config = [*(f"{key}={value}" for key, value in told.items()), *(pair(key, value) for key, value in more.items())]
    trust = ["--root-certificates", str(place / TRUST), "--superlink", kit.superlink]
    return [*trust, "--auth-supernode-private-key", str(place / KEY), "--node-config", " ".join(config)]


def quoted(text: str) -> str:
    """A path as Flower takes it in a node's configuration, which knows no way to write both kinds of quotes.

    Raises:
        SettingError: it cannot be written there.
    """
    if not text.isprintable() or "'" in text:
        raise SettingError(f"the path {text!r} cannot stand in a node's configuration; take one that prints, without '")
    return f"'{text}'"


def skew(kit: Kit, fedwarm: str = VERSION, flwr: str = "") -> str:
    """What to do where this machine's versions do not fit to the server's; empty where they do.

    fedwarm's server leaves a node of another major or minor version out of its runs; Flower's SuperLink looks at neither (1.42).
    """
    from importlib.metadata import version

    here = {"flwr": flwr or version("flwr"), "fedwarm": fedwarm}
    odd = [name for name in here if not fits(here[name], getattr(kit, name))]
    if not odd:
        return ""
    told = ", ".join(f"{name} {getattr(kit, name)} at the server and {here[name]} here" for name in odd)
    install = " ".join(f"{name}=={getattr(kit, name)}" for name in odd)
    return f"versions do not fit: {told}; install {install} here, or ask for a kit of the server as it is now"


def look_at_kit(folder: Path) -> Iterator[Finding]:
    """Whether a site's folder is whole and its versions fit."""
    try:
        kit = read(folder)
    except SettingError as error:
        yield fault(TOPIC, str(error))
        return
    wrong = skew(kit)
    told = f"site {kit.site}, client {kit.partition} of {kit.partitions} of federation {kit.federation}"
    yield fault(TOPIC, wrong) if wrong else ok(TOPIC, told)


def packed(kit: Kit, files: Sequence[tuple[str, str]], out: Path) -> None:
    """Write a kit as one zip file.

    Raises:
        DiskError: it cannot be written.
    """
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [(TELLS, kit.text), *files]:
            archive.writestr(name, text)
