"""Cloud names and where they live; imports nothing of a cloud until it is selected."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, Protocol, cast

from providers.base import Ownership, Provider, SupportsImages
from providers.settings import Faults

ENTRY_POINT_GROUP: Final = "peerpods.providers"


class Cloud(Protocol):
    """What a provider's package offers as module attributes of `<cloud>.config` and `<cloud>.provider`."""

    def parse(self, table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> Any: ...

    def open(self, config: Any, owner: Ownership) -> Provider: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A cloud: the package that implements it and the extra that installs its SDK."""

    package: str
    extra: str


BUILT_IN: Final = {
    "aws": Entry("providers.aws", "aws"),
    "azure": Entry("providers.azure", "azure"),
    "gcp": Entry("providers.gcp", "gcp"),
    "local": Entry("providers.local", ""),
}


def names() -> list[str]:
    """Every cloud that can be selected, third-party ones included."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def parse_config(name: str, table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> Any:
    """The cloud's own settings from its table and environment; faults are added, nothing is raised.

    Raises: KeyError for an unknown cloud.
    """
    return _module(name, "config").parse(table, env, faults)


def open_provider(name: str, config: Any, owner: Ownership) -> Provider:
    """A ready provider.

    Raises: KeyError for an unknown cloud; ModuleNotFoundError, saying which extra to install.
    """
    return cast("Cloud", _loaded(name, "provider")).open(config, owner)


def open_images(name: str, config: Any, place: str) -> SupportsImages:
    """Where this cloud's images are made. `place`: what it takes besides its settings, see docs/image-upload.md.

    Raises: KeyError for an unknown cloud, or one that takes no images; InvalidSpec for a place that cannot be one;
    ModuleNotFoundError, saying which extra to install.
    """
    package = BUILT_IN[name].package if name in BUILT_IN else _third_party(name)
    if importlib.util.find_spec(f"{package}.uploads") is None:
        raise KeyError(name)
    return cast("SupportsImages", _loaded(name, "uploads").open(config, place))


def _loaded(name: str, part: str) -> Any:
    try:
        return _module(name, part)
    except ModuleNotFoundError as error:
        entry = BUILT_IN.get(name)
        if entry is None or (error.name or "").startswith("providers"):
            raise
        raise ModuleNotFoundError(
            f"the {name} provider needs {error.name}: install peerpods[{entry.extra}]", name=error.name
        ) from error


def _module(name: str, part: str) -> Cloud:
    package = BUILT_IN[name].package if name in BUILT_IN else _third_party(name)
    return cast("Cloud", importlib.import_module(f"{package}.{part}"))


def _third_party(name: str) -> str:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point.value
    raise KeyError(name)
