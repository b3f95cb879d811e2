"""Whose randomness is whose: what a client could redraw of others in a central view, and what two runs of one seed share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fedwarm.codecs.dp_rec.account import Account, terms_of
from fedwarm.codecs.dp_rec.plan import run_number
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.streams import Stream, client_secret, common_secret
from fedwarm.core.seeds import derive
from fedwarm.flower.wire import from_records
from fedwarm.privacy.randomness import keyed
from fedwarm.privacy.sampling import poisson_cohort
from fedwarm.settings.fields import SettingError, Value
from tests.runs import Outcome, run

FAST: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 8, "server-threads": 1,
    "model.name": "logistic", "dp-rec.bits": 4, "dp-rec.sigma": 0.5,
}  # fmt: skip
CENTRAL: dict[str, Value] = {
    **FAST, "dp-rec.view": "central_certified", "dp-rec.entropy": "seeded", "fraction-train": 0.5, "min-replies": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("dp_rec", tmp_path_factory.mktemp("central") / "run", CENTRAL, clients=6)


def told(outcome: Outcome) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """The secrets that each client was sent, by round and client."""
    rows = [row for row in outcome.ledger if row["stage"] == "round"]
    payloads = [from_records(message.content) for message in outcome.asked("round")]
    return {
        (row["round"], row["client"]): (bytes.fromhex(p.text("secret")), bytes.fromhex(p.text("rotation")))
        for row, p in zip(rows, payloads, strict=True)
    }


def test_a_client_is_told_its_own_stream_alone(central: Outcome) -> None:
    """The server's master is in no message; each secret opens one client's stream of one round, and the round's rotation."""
    master = derive(0, "dp-rec", "secret").to_bytes(16, "little")
    found = told(central)
    assert len({own for own, _ in found.values()}) == len(found) > 6
    for (number, client), (own, common) in found.items():
        stream = Stream.under(master, run_number(0), number, client)
        assert (stream.secret, stream.common) == (own, common) and master not in (own, common)


def test_from_all_that_a_client_is_told_nobody_else_can_be_redrawn(central: Outcome) -> None:
    """The attack on runs that sent the master: draw cohorts and streams of others from it."""
    found = told(central)
    cohorts = {number: tuple(c for n, c in found if n == number) for number in (1, 2, 3)}
    master = derive(0, "dp-rec", "secret").to_bytes(16, "little")
    assert all(poisson_cohort(6, 0.5, keyed(master + f"cohort {n} ".encode())) == cohort for n, cohort in cohorts.items())
    known = {secret for (_, client), pair in found.items() if client == 0 for secret in pair}
    assert known, "client 0 took part"
    for secret in known:
        drawn = {n: poisson_cohort(6, 0.5, keyed(secret + f"cohort {n} ".encode())) for n in cohorts}
        assert drawn != cohorts
        for (number, client), (own, common) in found.items():
            if client != 0:
                assert own not in known
                assert client_secret(secret, number, client) != own and common_secret(secret, number) != common


def nonces(outcome: Outcome) -> list[bytes]:
    return [from_records(reply.content).arrays["words"].tobytes()[:16] for reply in outcome.answered("round")]


@pytest.mark.parametrize(("method", "codec"), [("dp_rec", "dense"), ("fedavg", "dp-rec")])
def test_two_runs_of_one_seed_share_no_candidates(tmp_path: Path, method: str, codec: str) -> None:
    """Each message begins with its client's own nonce, which is in the key of its candidates; seeded runs repeat theirs."""
    settings: dict[str, Value] = {**FAST, "codec": codec, "dp-rec.view": "local", "num-server-rounds": 2}
    first, second = (run(method, tmp_path / name, settings, clients=3) for name in ("first", "second"))
    drawn = nonces(first) + nonces(second)
    assert len(set(drawn)) == len(drawn) == 12 and {len(nonce) for nonce in drawn} == {16}
    assert len({Stream(1, 1, 0, nonce=nonce).key(0) for nonce in drawn}) == 12
    seeded = [run(method, tmp_path / name, {**settings, "dp-rec.entropy": "seeded"}, clients=3) for name in ("a", "b")]
    assert nonces(seeded[0]) == nonces(seeded[1]) and len(set(nonces(seeded[0]))) == 6
    assert first.results["privacy"]["certified"] and not seeded[0].results["privacy"]["certified"]


def test_two_runs_of_one_seed_share_no_secrets(tmp_path: Path) -> None:
    """A central view's server draws its master anew for each run, so that its streams are those of no other."""
    settings: dict[str, Value] = {**FAST, "dp-rec.view": "central_certified", "num-server-rounds": 2}
    runs = [run("dp_rec", tmp_path / name, settings, clients=3) for name in ("first", "second")]
    own, common = (Counter(pair[i] for outcome in runs for pair in told(outcome).values()) for i in (0, 1))
    assert len(own) == 12 and set(own.values()) == {1}
    assert len(common) == 4 and set(common.values()) == {3}, "one rotation a round, told to its three clients"


def test_a_run_of_older_code_words_is_not_gone_on_with() -> None:
    """Nor with one of a central view, whatever its mechanism, as its clients hold the master of its cohorts."""
    for settings in (DpRec(), DpRec(view="central_certified", mechanism="gaussian")):
        terms = terms_of(settings, 4, 4, 3)
        begun = Account(settings, terms, 1.0, terms.accountant())
        facts = begun.state()
        begun.restore(facts)
        with pytest.raises(SettingError, match="of an older version, which promises less; start over with --fresh"):
            begun.restore({name: value for name, value in facts.items() if name != "wire"})
