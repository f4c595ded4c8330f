"""How much CO2e a kWh of electricity makes, from codecarbon's data and without its code."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from project.messages import UsageError, nearest

WORLD_YEAR = 2018  # of the IEA's Global Energy & CO2 Status Report 2019, codecarbon's source


def check_energy(settings: Any) -> None:
    """Refuse what is no country or no number.

    Raises:
        UsageError: With the nearest country.
    """
    grid_of(settings.country, settings.grams_per_kwh)
    for name in ("grams_per_kwh", "cpu_watts", "ram_watts"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"energy.{name} {value} must be a number from 0 up")


def grid_of(country: str | None, grams_per_kwh: float | None = None) -> dict[str, Any]:
    """Return the CO2e of a kWh, g, with its year and source.

    Args:
        country: ISO 3166 code of three letters; None is the world's average.
        grams_per_kwh: In place of what codecarbon's data say.

    Raises:
        UsageError: If codecarbon has no such country, with the nearest that it has.
    """
    source = "codecarbon's global_energy_mix.json"
    found: dict[str, Any] = {"country": country, "year": None, "source": "energy.grams_per_kwh"}
    if country is not None:
        countries = json.loads(data_file("private_infra/global_energy_mix.json").read_text("utf-8"))
        if country not in countries:
            raise UsageError(
                f"energy.country {country!r} is none of the {len(countries)} three-letter codes "
                f"that codecarbon has{nearest_country(country, countries)}"
            )
    if grams_per_kwh is not None:
        return {"grams_per_kwh": float(grams_per_kwh)} | found
    if country is not None:
        entry = countries[country]
        grams, year = entry["carbon_intensity"], entry["year"]
    else:
        file = data_file("private_infra/carbon_intensity_per_source.json")
        data = json.loads(file.read_text("utf-8"))
        grams, year, source = data["world_average"], WORLD_YEAR, data["world_average_source"]
    return {"grams_per_kwh": float(grams)} | found | {"year": year, "source": source}


def nearest_country(word: str, countries: dict[str, dict[str, Any]]) -> str:
    """Return "; did you mean FRA (France)?" for a beginning, a name or a slip."""
    by_name = {entry["country_name"].lower(): code for code, entry in countries.items()}
    begins = [code for code in sorted(countries) if word and code.startswith(word.upper())]
    if hint := nearest(word.lower(), by_name):
        begins += [code for name, code in by_name.items() if hint.endswith(f" {name}?")]
    if not begins:
        return nearest(word.upper(), countries)
    return f"; did you mean {begins[0]} ({countries[begins[0]]['country_name']})?"


def data_file(name: str) -> Path:
    """Return a file of codecarbon's data, without importing it.

    Raises:
        UsageError: If it is not installed.
    """
    spec = find_spec("codecarbon")
    if spec is None or spec.origin is None:
        raise UsageError("codecarbon is not installed: pip install 'codecarbon>=3.3'")
    return Path(spec.origin).parent / "data" / name
