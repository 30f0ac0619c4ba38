"""Fetch the photos qusr-nano is trained on, from Debian packages, by apt.

Each photo's licence was read in its package's `copyright` (gnome-backgrounds: `AUTHORS`); only the
photos listed here are taken. No mirror is named: the one of this machine's apt set-up is used.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunError
from ..files import write_whole


@dataclass(frozen=True)
class Package:
    """Photos of one Debian package."""

    name: str
    version: str
    suite: str
    folder: str
    """Where the package keeps them."""
    photos: tuple[str, ...]


PACKAGES = (
    # CC0-1.0, Budgie Desktop Developers. perched-osprey is left out: it is the bundled example.
    Package("budgie-backgrounds", "3.0-1", "trixie", "usr/share/backgrounds/budgie", (
        "abstract-spiral.jpg", "beacon-street-sunset.jpg", "blue-periwinkle.jpg", "canyon-wren.jpg", "casa-mila.jpg",
        "extreme-desert-hike.jpg", "high-trestle-trail.jpg", "lake-sherburne.jpg", "oakland-zoo-otters.jpg",
        "ocean-waves.jpg", "piazza-gae-aulenti.jpg", "roman-colosseum.jpg", "singaporean-cityscape.jpg",
        "tea-gardens.jpg",
    )),
    # AUTHORS: Acrylic, ColdWarm, Road, SeaSunset CC0; copyright: Dark_Ivy (and an older Road) CC-BY-SA-3.0.
    Package("gnome-backgrounds", "3.38.0-1", "bullseye", "usr/share/backgrounds/gnome", (
        "Acrylic.jpg", "ColdWarm.jpg", "Dark_Ivy.jpg", "Road.jpg", "SeaSunset.jpg",
    )),
    # CC0-1.0, CC-BY-4.0 or CC-BY-SA-4.0 for each photo: see the model card.
    Package("lomiri-wallpapers-16.04", "20.04.0-2", "bookworm", "usr/share/backgrounds", (
        "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg", "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg",
        "analogpattern_by_Peter_Nerlich.jpg", "free_by_Peter_Nerlich.jpg", "friends_by_Aitzol_Berasategi.jpg",
        "greentock_by_Peter_Nerlich.jpg", "life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg",
    )),
    # CC0-1.0, Budgie Desktop Developers; JPEG XL.
    Package("budgie-backgrounds", "4.2-1", "sid", "usr/share/backgrounds/budgie", (
        "perched-shrike.jxl", "pondering-heron.jxl", "sunning-anhinga.jxl", "the-spices-of-life.jxl",
    )),
    # CC-BY-SA-3.0.
    Package("ukui-wallpapers", "20.04.4-1", "sid", "usr/share/backgrounds", (
        "bluebird.jpg", "bridgecity.jpg", "bridgecity2.jpg", "flamingos.jpg", "horse.jpg", "house.jpg", "look.jpg",
        "mountain-range.jpg", "mountain.jpg", "mountain2.jpg", "sea.jpg", "sky.jpg", "snowy-mountains.jpg",
        "still-life.jpg", "sunf.jpg",
    )),
    Package("lomiri-wallpapers-20.04", "20.04.0-2", "bookworm", "usr/share/backgrounds", (
        "Kleiber_by_Lukas_Baubkus.jpg",
    )),
)  # fmt: skip


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RunError(f"photos: {command[0]} is not installed; run this on Debian or Ubuntu") from error
    except subprocess.CalledProcessError as error:
        raise RunError(f"photos: {' '.join(command[:3])} failed: {error.stderr.strip()[-400:]}") from error
    return done.stdout


def copy_photo(source: Path, folder: Path) -> Path:
    """Put a photo into a folder, whole or not at all; JPEG XL, which Pillow cannot read, becomes PNG.

    Raises:
        RunError: djxl fails.
    """
    target = folder / source.with_suffix(".png" if source.suffix == ".jxl" else source.suffix).name
    with write_whole(target) as temporary:
        if source.suffix == ".jxl":
            decoded = source.with_suffix(".png")
            _run("djxl", str(source), str(decoded))
            source = decoded
        shutil.copy(source, temporary)
    return target


def _check_programs() -> None:
    """Before anything is downloaded."""
    if not shutil.which("djxl"):
        raise RunError("photos: djxl is not installed, and some photos are JPEG XL; apt-get install libjxl-tools")


def _apt_options(work: Path) -> list[str]:
    """A private apt set-up over several Debian releases, on the mirror this machine already uses."""
    sites = sorted(set(_run("apt-get", "indextargets", "--format", "$(SITE)").split()))
    mirrors = [site for site in sites if site.rstrip("/").endswith("/debian")]
    if not mirrors:
        raise RunError("photos: no Debian mirror is configured for apt; run `apt-get update` first")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    suites = sorted({package.suite for package in PACKAGES})
    sources = work / "sources.list"
    sources.write_text("".join(f"deb [signed-by={keyring}] {mirrors[0]} {suite} main\n" for suite in suites))
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def fetch(folder: Path) -> int:
    """Download the packages and copy the listed photos into a folder.

    Returns:
        How many photos are there now.

    Raises:
        RunError: apt or djxl is missing or fails, or a photo is not where it should be.
    """
    _check_programs()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        options = _apt_options(work)
        _run("apt-get", *options, "update")
        for package in PACKAGES:
            unpacked = work / f"{package.name}-{package.version}"  # one name comes in two versions
            unpacked.mkdir()
            _run("apt-get", *options, "download", f"{package.name}={package.version}", cwd=unpacked)
            _run("dpkg-deb", "-x", str(next(unpacked.glob("*.deb"))), str(unpacked))
            for photo in package.photos:
                source = unpacked / package.folder / photo
                if not source.is_file():
                    raise RunError(f"photos: {package.name} {package.version} has no {photo}")
                copy_photo(source, folder)
    return sum(len(package.photos) for package in PACKAGES)
