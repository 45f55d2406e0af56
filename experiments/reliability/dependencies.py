"""What is installed with OmniNER: licences, and versions with known weaknesses, without a network.

    python experiments/reliability/dependencies.py        # a table; exit 1 where a version is known to be weak

Licences are those that the installed packages name. The weaknesses are a list kept by hand, below: it holds what was
known of these packages at the end of 2025 and that matters here, and is no substitute for a service that is asked.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

WEAK = {  # package: versions that are weak -> the advisory
    "aiohttp": {"<3.12.14": "CVE-2025-53643"},
    "certifi": {"<2024.7.4": "CVE-2024-39689"},
    "cryptography": {"<44.0.1": "CVE-2024-12797"},
    "filelock": {"<3.20.1": "CVE-2025-68146"},
    "flask": {"<3.1.1": "CVE-2025-47278"},
    "fonttools": {">=4.33.0,<4.60.2": "CVE-2025-66034"},
    "gitpython": {"<3.1.41": "CVE-2024-22190"},
    "gunicorn": {"<23.0.0": "CVE-2024-6827"},
    "h11": {"<0.16.0": "CVE-2025-43859"},
    "idna": {"<3.7": "CVE-2024-3651"},
    "jinja2": {"<3.1.6": "CVE-2025-27516"},
    "joblib": {"<1.2.0": "CVE-2022-21797"},
    "lightning": {"==2.6.2": "malicious release", "==2.6.3": "malicious release"},
    "mako": {"<1.2.2": "CVE-2022-40023"},
    "mlflow": {"<2.17.2": "CVE-2025-11201", "<3.1.0": "CVE-2025-52967"},
    "pillow": {"<10.3.0": "CVE-2024-28219", ">=11.2.0,<11.3.0": "CVE-2025-48379"},
    "protobuf": {"<4.25.8": "CVE-2025-4565", ">=5.26,<5.29.5": "CVE-2025-4565", ">=6.30,<6.31.1": "CVE-2025-4565"},
    "pytorch-lightning": {"<2.3.3": "CVE-2024-5452"},
    "pyyaml": {"<5.4": "CVE-2020-14343"},
    "requests": {"<2.32.4": "CVE-2024-47081"},
    "scikit-learn": {"<1.5.0": "CVE-2024-5206"},
    "setuptools": {"<78.1.1": "CVE-2025-47273"},
    "sqlparse": {"<0.5.0": "CVE-2024-4340"},
    "starlette": {"<0.49.1": "CVE-2025-62727"},
    "torch": {"<2.6.0": "CVE-2025-32434"},
    "transformers": {"<4.48.0": "CVE-2024-11393", "<4.53.0": "CVE-2025-5197"},
    "urllib3": {"<2.6.0": "CVE-2025-66418"},
    "werkzeug": {"<3.0.6": "CVE-2024-49767"},
}
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


def main() -> None:
    """Print a row for each package, how often each licence comes, and what is weak."""
    extras = frozenset(metadata.metadata("omniner").get_all("Provides-Extra") or [])
    rows, weak = [], []
    for name in sorted(needed("omniner", set(), extras)):
        version = metadata.version(name)
        rows.append((name, version, licence(name)))
        weak += [
            f"{name} {version}: {why}"
            for versions, why in WEAK.get(name, {}).items()
            if SpecifierSet(versions, prereleases=True).contains(version)
        ]
    print("| package | version | licence |\n| --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print(
        f"\n{len(rows)} packages:",
        ", ".join(f"{n} {kind}" for kind, n in Counter(row[2] for row in rows).most_common()),
    )
    print(f"{len(WEAK)} packages are on the list of weaknesses; weak versions here: {'; '.join(weak) or 'none'}")
    sys.exit(bool(weak))


if __name__ == "__main__":
    main()
