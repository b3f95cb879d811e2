"""What a run's settings say of augmentation, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwarm.augmentations import hides
from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, validated
from fedwarm.augmentations.gen_fedsd.providers import provider_type
from fedwarm.core.store import cache_home
from fedwarm.data.settings import Data
from fedwarm.privacy.geometric import noisy_histogram
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PRIVACY


def global_rule(config: Config) -> bool:
    """Whether the server announces the target, after clients told it their histograms."""
    settings = config.of(GenFedSD)
    return chosen(config) and settings.rule == "global" and provider_type(config).fills


NAME = "gen-fedsd"


def chosen(config: Config) -> bool:
    """Whether a run's clients fill their gaps."""
    return bool(config.run.augment == NAME)


def check_private(config: Config) -> None:
    """Refuse what would tell more of a client than the settings of privacy say; both sides of a run do, and its check before.

    Raises:
        SettingError: it would.
    """
    run = config.run
    if chosen(config) and run.privacy != PRIVACY.first:
        raise SettingError(
            f"augment = {NAME!r} with privacy = {run.privacy!r}: one example more changes how many images are made, "
            "which no noise covers; set one of them to 'none'"
        )
    if not global_rule(config):
        return
    if hides(config):
        raise SettingError(
            "gen-fedsd.rule = 'global' tells the server each client's histogram, which the epsilon of dp-rec does not cover; "
            "take client_max, client_mean or fixed"
        )
    epsilon, exact = config.of(GenFedSD).histogram_epsilon, config.of(Data).share_class_counts
    if epsilon and exact:
        raise SettingError(
            f"gen-fedsd.histogram-epsilon = {epsilon:g} covers a histogram that data.share-class-counts = true tells without "
            "noise; set data.share-class-counts = false, or the epsilon to 0"
        )
    if not epsilon and not exact:
        raise SettingError(
            "gen-fedsd.rule = 'global' without gen-fedsd.histogram-epsilon tells each client's exact histogram, which "
            "data.share-class-counts = false forbids; set an epsilon above 0, or take client_max, client_mean or fixed"
        )


def histogram(config: Config, counts: Sequence[int]) -> list[int]:
    """What a client tells of its counts: with noise by `gen-fedsd.histogram-epsilon`, drawn by the system and told once.

    Raises:
        SettingError: the settings let no histogram leave, whatever a server asks for.
    """
    check_private(config)
    if not global_rule(config):
        raise SettingError(
            f"gen-fedsd.rule = {config.of(GenFedSD).rule!r} sends no histogram, and the server asked for one; give "
            "server and clients the same gen-fedsd settings"
        )
    return noisy_histogram(counts, config.of(GenFedSD).histogram_epsilon)


def shelf_root(config: Config) -> Path:
    """Where drawn images lie for later runs: `client-folder` where the user set one, else the user's cache folder."""
    run = config.run
    own = run.client_folder and run.client_folder != f"{run.out}/clients"
    return Path(run.client_folder) if own else cache_home()


def check_before(config: Config) -> None:
    """What is checked before a run, beside what its provider checks.

    Raises:
        SettingError: the settings do not go together.
    """
    check_private(config)
    validated(config.of(GenFedSD))
