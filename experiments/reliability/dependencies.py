"""What is installed with OmniNER: licences, and versions with known weaknesses, without a network.

    git clone https://github.com/pypa/advisory-database           # once, where there is a network
    python experiments/reliability/dependencies.py --advisories advisory-database/vulns

Licences are those that the installed packages name. A version is weak if an advisory of the database names it; without
`--advisories` that is not looked at. Exit status 1 where there is one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

SHORT = {  # in the texts of licences: how it is called here
    r"apache": "Apache-2.0",
    r"\bmit\b": "MIT",
    r"bsd|3-clause": "BSD",
    r"mpl|mozilla": "MPL-2.0",
    r"python software foundation|psf": "PSF",
    r"isc\b": "ISC",
    r"lgpl|lesser general": "LGPL",
    r"gpl|general public": "GPL",
    r"unlicense|public domain": "public domain",
    r"hpnd|historical permission": "HPND",
    r"nvidia": "NVIDIA",
}


def needed(name: str, found: set[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """Add the installed packages that a package needs, and those that they need, to `found`."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})
        other = canonicalize_name(requirement.name)
        if wanted and other not in found:
            try:
                metadata.version(other)
            except metadata.PackageNotFoundError:
                continue  # for another system, or an extra that is not installed
            found.add(other)
            needed(other, found, frozenset(requirement.extras))
    return found


def licence(name: str) -> str:
    """Name the licence of an installed package in short."""
    about = metadata.metadata(name)
    kinds = [value.rpartition("::")[2] for value in about.get_all("Classifier") or [] if value.startswith("License")]
    said = about.get("License-Expression") or " / ".join(kinds) or (about.get("License") or "").partition("\n")[0]
    found = [short for pattern, short in SHORT.items() if re.search(pattern, said, re.IGNORECASE)]
    return " or ".join(found) if found else said.strip()[:40] or "not named"


def advisories_on(name: str, version: str, folder: Path) -> list[str]:
    """List the advisories that name a version of a package.

    Args:
        name: of the package.
        version: that is installed.
        folder: `vulns` of the database: a folder for each package with a file in the OSV format for each advisory.
    """
    found = []
    for file in sorted((folder / name).glob("*.yaml")):
        advisory = yaml.load(
            file.read_text(encoding="utf-8"), yaml.BaseLoader
        )  # every value is a text: 2.10 is not 2.1
        affected = [one for one in advisory["affected"] if canonicalize_name(one["package"]["name"]) == name]
        if "withdrawn" not in advisory and any(is_affected(one, version) for one in affected):
            found.append(f"{name} {version}: {' '.join([advisory['id'], *advisory.get('aliases', [])])}")
    return found


def is_affected(affected: dict[str, Any], version: str) -> bool:
    """Tell whether a version is listed, or lies between the ends of a range of versions."""
    if version in affected.get("versions", []):
        return True
    ranges = (one["events"] for one in affected.get("ranges", []) if one["type"] == "ECOSYSTEM")
    return any(is_inside(events, Version(version)) for events in ranges)


def is_inside(events: list[dict[str, str]], version: Version) -> bool:
    """Tell whether the events of a range, in their order, leave a version affected."""
    inside = False
    for event in events:
        ((kind, at),) = event.items()
        if kind == "introduced":
            inside |= at == "0" or version >= Version(at)
        elif kind == "fixed":
            inside &= version < Version(at)
        elif kind == "last_affected":
            inside &= version <= Version(at)
    return inside


def main() -> None:
    """Print a row for each package, how often each licence comes, and what is weak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisories", type=Path, help="the database's folder `vulns`")
    folder = parser.parse_args().advisories
    if folder is not None and not folder.is_dir():
        parser.error(f"{folder} is no folder")
    extras = frozenset(metadata.metadata("omniner").get_all("Provides-Extra") or [])
    rows = [(name, metadata.version(name), licence(name)) for name in sorted(needed("omniner", set(), extras))]
    print("| package | version | licence |\n| --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    licences = ", ".join(f"{n} {kind}" for kind, n in Counter(row[2] for row in rows).most_common())
    print(f"\n{len(rows)} packages: {licences}")
    if folder is not None:
        known = sum((folder / row[0]).is_dir() for row in rows)
        weak = [text for name, version, _ in rows for text in advisories_on(name, version, folder)]
        print(f"{known} of them have advisories; on these versions: {'; '.join(weak) or 'none'}")
        sys.exit(bool(weak))


if __name__ == "__main__":
    main()
