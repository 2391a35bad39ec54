"""Faults as texts: JSON over HTTP, and `verb key=value ...` on the command line."""

import shlex
from collections.abc import Mapping
from typing import Any, Final

from providers import forms
from providers.settings import Form
from providers.simcloud.faults import Fate, Faults

_flag: Final = forms.boolean
_seconds: Final = forms.duration
_count: Final = forms.integer(0, 1_000_000)
_status: Final = forms.integer(200, 599)
_unlimited: Final = forms.optional(_count, lambda value: value in ("", None, "none"))

Wish = tuple[str, dict[str, str]]  # a verb and its arguments

# verb -> argument -> its form. The verbs and arguments are those of Faults.
WISHES: Final[Mapping[str, Mapping[str, Form]]] = {
    "next": {
        "action": forms.text,
        "error": forms.text,
        "message": forms.text,
        "http_status": _status,
        "garbage": _flag,
        "lose_reply": _flag,
        "delay": _seconds,
        "delay_reply": _seconds,
        "times": _count,
    },
    "capacity": {"instance_type": forms.text, "zone": forms.text, "free": _unlimited},
    "quota": {"vcpus": _unlimited},
    "deny": {"permission": forms.text},
    "boot": {"fate": forms.choice(*Fate), "times": _count, "reason": forms.text},
    "kill": {"instance": forms.text, "reason": forms.text},
    "cut": {"instance": forms.text, "seconds": _seconds},
    "clear": {},
}
_REQUIRED: Final = {
    "capacity": ("free",),
    "quota": ("vcpus",),
    "deny": ("permission",),
    "boot": ("fate",),
    "kill": ("instance",),
    "cut": ("instance",),
}


def apply(faults: Faults, verb: str, arguments: Mapping[str, Any]) -> None:
    """Cause one fault. Raises ValueError for what cannot be understood, KeyError for an unknown instance."""
    if verb not in WISHES:
        raise ValueError(f"there is no fault {verb!r}; there are: {', '.join(WISHES)}")
    missing = [name for name in _REQUIRED.get(verb, ()) if name not in arguments]
    if missing:
        raise ValueError(f"{verb} needs {' and '.join(missing)}")
    getattr(faults, verb)(**{name: _parsed(verb, name, value) for name, value in arguments.items()})


def checked(text: str) -> Wish:
    """`parse`, for a wish that is granted later: what makes no sense is refused now. Raises ValueError."""
    verb, arguments = parse(text)
    nobody = Faults(kill_instance=lambda instance, reason: None, cut_instance=lambda instance, seconds: None)
    apply(nobody, verb, arguments)
    return verb, arguments


def parse(text: str) -> Wish:
    """`capacity instance_type=m6a.large free=0` as a verb and its arguments. Raises ValueError."""
    verb, *words = shlex.split(text) or [""]
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, equals, _ in pairs if not equals]:
        raise ValueError(f"{bad[0]!r} is not of the form name=value")
    return verb, {name: value for name, _, value in pairs}


def _parsed(verb: str, name: str, value: Any) -> Any:
    forms_of_verb = WISHES[verb]
    if name not in forms_of_verb:
        known = ", ".join(forms_of_verb) or "nothing"
        raise ValueError(f"{verb} has no {name!r}; it takes {known}")
    form = forms_of_verb[name]
    try:
        return form.parse(value)
    except ValueError as error:
        raise ValueError(f"{verb} {name}: {value!r} {error}; allowed: {form.allowed}") from None
