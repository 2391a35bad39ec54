"""What a pod wishes of its machine and of its network, in the one annotation that reaches CreateVM besides the sizes.

    io.katacontainers.config.hypervisor.machine_type: "TYPES;key=value;key=value"

    m6a.large                            as it always was
    m6a.large,m7a.large;zone=us-east-1a  the first that can be had
    m6a.*,c6a.*;tee=snp;max-price=0.40   wildcards
    ;spot=preferred;scratch-gib=50       any type
    ;vcpus=4;memory-mib=8192             a size, whatever kata makes of the pod's resources

A pod may write the wishes as annotations of its own, `peerpods.io/<key>`: `from_annotations` makes the one of them.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from adaptor import config_forms, names
from adaptor.catalog.quantities import MOST_MIB, MOST_VCPUS
from adaptor.catalog.select import Pin, Requirements, Spot
from adaptor.errors import InvalidRequest
from providers import forms
from providers.base import Tee
from providers.settings import Form

TYPES_KEY: Final = "instance-type"  # of the annotation whose value is the TYPES part

_MOST_NAMES: Final = 20  # in one list: more than anybody writes by hand, few enough to match quickly
_MOST_TEXT: Final = 2048  # characters of the whole
_SHOWN: Final = 60  # characters of what was written, in an error about it
LARGEST_DISK: Final = 65_536  # GiB; the largest that any of the clouds we know sells
_ARCHITECTURES: Final = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


def _names(value: Any) -> tuple[str, ...]:
    found = forms.each(_name).parse(value)
    if not found:
        raise ValueError("is empty")
    if len(found) > _MOST_NAMES:
        raise ValueError(f"has more than {_MOST_NAMES} names")
    return tuple(found)


_name: Final = forms.matching(
    r"[A-Za-z0-9_.*?/-]{1,80}", "letters, digits, '.', '_', '-', '/' and the wildcards * and ?"
)
_list: Final = Form(f"names separated by commas: {_name.allowed}; at most {_MOST_NAMES}", _names)
_tee: Final = forms.choice(*(tee.value for tee in Tee))
_spot: Final = forms.choice(*(spot.value for spot in Spot))
_arch: Final = forms.choice(*_ARCHITECTURES)
_on_off: Final = forms.choice("on", "off")
_switch: Final = Form(_on_off.allowed, lambda value: _on_off.parse(value) == "on")


@dataclass(frozen=True, slots=True)
class Wish:
    """One key: the field of Wishes it fills, its form, and what it means."""

    field: str
    form: Form
    meaning: str


KEYS: Final[Mapping[str, Wish]] = {
    "tee": Wish("tee", Form(_tee.allowed, lambda value: Tee(_tee.parse(value))), "the TEE; without it, the default's"),
    "spot": Wish(
        "spot",
        Form(_spot.allowed, lambda value: Spot(_spot.parse(value))),
        "allowed: where it is cheaper; preferred: on demand only where there is none",
    ),
    "zone": Wish("zones", _list, "any of these zones"),
    "max-price": Wish("max_price", config_forms.usd, "a machine whose price is unknown is refused"),
    "gpu-model": Wish(
        "gpu_model",
        forms.matching(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}", "a GPU's name: L4, nvidia-a100-80gb"),
        "and with it at least one GPU",
    ),
    "family": Wish("families", _list, "m6a (EC2), DCas_v5 (Azure), n2d-standard (GCP)"),
    "arch": Wish(
        "architecture",
        Form(_arch.allowed, lambda value: _ARCHITECTURES[_arch.parse(value)]),
        "of the pod's image; without it, the default type's",
    ),
    "root-gib": Wish("root_gib", forms.integer(1, LARGEST_DISK), "size of the root disk, never less than the image's"),
    "scratch-gib": Wish("scratch_gib", forms.integer(0, LARGEST_DISK), "so much more of it, for container images"),
    "vcpus": Wish("vcpus", forms.integer(0, MOST_VCPUS), "the VM's, before what kata adds up; 0: any number"),
    "memory-mib": Wish("memory_mib", forms.integer(0, MOST_MIB), "the VM's, before what kata adds up; 0: any size"),
    "external-network": Wish(
        "external_network", _switch, "on: what leaves the cluster does so from the VM; off: through the worker"
    ),
    "imds": Wish("imds", _switch, "on: the pod may ask its VM's metadata service"),
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the annotation says; empty and None = nothing."""

    types: tuple[str, ...] = ()
    tee: Tee | None = None
    spot: Spot | None = None
    zones: tuple[str, ...] = ()
    max_price: float | None = None
    gpu_model: str = ""
    families: tuple[str, ...] = ()
    architecture: str = ""
    root_gib: int | None = None
    scratch_gib: int = 0
    vcpus: int | None = None  # 0 = none in particular, also where kata says some
    memory_mib: int | None = None
    external_network: bool | None = None  # None: as the node does it
    imds: bool = False

    def requirements(
        self,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        gpus: int | None = None,
        gpu_model: str | None = None,
        pins: Sequence[Pin] = (),
    ) -> Requirements:
        """These, the pod's sizes as kata tells them, and the zones that its volumes pin it to. A size wished for counts."""
        return Requirements(
            types=self.types,
            vcpus=vcpus if self.vcpus is None else self.vcpus or None,
            memory_mib=memory_mib if self.memory_mib is None else self.memory_mib or None,
            gpus=gpus,
            gpu_models=tuple(model for model in (gpu_model, self.gpu_model) if model),
            tee=self.tee,
            architecture=self.architecture,
            families=self.families,
            zones=self.zones,
            pins=tuple(pins),
            max_price=self.max_price,
            spot=self.spot,
        )


def split(text: str) -> tuple[str, str]:
    """The TYPES part and the rest of an annotation, each as `parse(f"{types};{rest}")` takes it."""
    types, _, rest = text.partition(";")
    return types.strip(), rest.strip()


@lru_cache(maxsize=1024)  # a cluster's pods wish for the same few things
def parse(text: str) -> Wishes:
    """The annotation's text as a value. Raises: InvalidRequest, naming the key and what is allowed."""
    if len(text) > _MOST_TEXT:
        raise InvalidRequest(f"machine_type has {len(text)} characters; at most {_MOST_TEXT} are allowed")
    types, *wishes = text.split(";")
    values: dict[str, Any] = {}
    if types.strip():
        values["types"] = _value("machine_type", types, _list)
    for wish in filter(None, (part.strip() for part in wishes)):
        key, equals, value = (part.strip() for part in wish.partition("="))
        known = KEYS.get(key)
        if known is None or not equals:
            raise InvalidRequest(f'machine_type holds "{wish[:_SHOWN]}": {_not_a_wish(key)}')
        if known.field in values:
            raise InvalidRequest(f"machine_type says {key}= twice")
        values[known.field] = _value(f"machine_type: {key}", value, known.form)
    return Wishes(**values)


def from_annotations(annotations: Mapping[str, str], machine_type: str = "") -> str:
    """The machine_type text for a pod's `peerpods.io/<key>` annotations, added to what it may hold already.

    What it holds already may be said again in the same words, so that the outcome can be merged once more.
    Raises: InvalidRequest for an unknown key, one that is said twice, or a value that `parse` would refuse.
    """
    said = {
        name.removeprefix(names.WISH_PREFIX): value.strip()
        for name, value in sorted(annotations.items())
        if name.startswith(names.WISH_PREFIX)
    }
    types, rest = split(machine_type)
    if TYPES_KEY in said:
        if types not in ("", said[TYPES_KEY]):
            raise InvalidRequest(
                f"both machine_type and {names.WISH_PREFIX}{TYPES_KEY} name instance types: leave one out"
            )
        types = said.pop(TYPES_KEY)
    for key, value in said.items():
        if key not in KEYS:
            raise InvalidRequest(f"annotation {names.WISH_PREFIX}{key}: {_not_a_wish(key)}")
        if ";" in value:
            raise InvalidRequest(f'annotation {names.WISH_PREFIX}{key} is "{value[:_SHOWN]}": it must not hold a ";"')
    if ";" in types:
        raise InvalidRequest(f'annotation {names.WISH_PREFIX}{TYPES_KEY} must not hold a ";"')
    held = {part.strip() for part in rest.split(";")}
    added = (wish for key, value in said.items() if (wish := f"{key}={value}") not in held)
    text = ";".join(filter(None, (rest, *added)))
    whole = f"{types};{text}" if text else types
    parse(whole)
    return whole


def _value(what: str, text: str, form: Form) -> Any:
    try:
        return form.parse(text)
    except ValueError as error:
        raise InvalidRequest(f'{what} "{text[:_SHOWN]}" {error}; allowed: {form.allowed}') from None


def _not_a_wish(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"not a wish known here{hint} Known, each as key=value: {', '.join(KEYS)}"
