"""Whether a command line asks for the certificate that is stored, or for another one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from thetabox.cli.console import note
from thetabox.cli.inputs import read_data
from thetabox.cli.values import literals
from thetabox.data import load as load_data
from thetabox.data.dataset import SPLITS, Dataset
from thetabox.errors import InputError
from thetabox.models import load, sha256
from thetabox.user_code import source_file
from thetabox.verify import Certificate, YieldCertificate, arguments, domains
from thetabox.verify.problem import model_facts, tensor_hash

NOT_OF_THE_PROOF = frozenset(
    {"models", "epsilon", "min_verified", "sigma", "min_yield", "min_accuracy"}
    | {"json", "quiet", "junit", "summary", "seed", "threads", "device", "timeout", "workers", "cluster"}
)
"""Options that ask nothing of the certificate: what is required of it, where the result goes, how one is computed."""
NOT_GIVEN = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)

Stored = Certificate | YieldCertificate
# (what the certificate holds, what is asked for), in a form in which they are equal or not.
Compared = Callable[[Any, Any], tuple[Any, Any]]


def given(context: click.Context, name: str) -> bool:
    """Whether an option stands on the command line (or in the environment)."""
    return context.get_parameter_source(name) not in NOT_GIVEN


def check(context: click.Context, certificate: Stored, path: Path) -> None:
    """Refuse whatever was given on the command line and is not so in the certificate.

    Every option of the command is looked at: one of which nobody has said how it compares is refused.

    Raises:
        InputError: an option asks for another certificate, or for something that a certificate does not hold.
    """
    compared = COMPARED if isinstance(certificate, Certificate) else COMPARED_OF_A_YIELD
    what = _called(certificate, path)
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in NOT_OF_THE_PROOF or not given(context, name):
            continue
        value, option = context.params[name], parameter.opts[0]
        if name in DATA:
            if context.params["data"] is None:
                _check_samples(certificate, option, value)
            continue
        if name not in compared:
            raise InputError(f"{option} asks for what {what} does not hold; leave it out, or gate the model")
        try:
            held, asked = compared[name](certificate, value)
        except InputError as error:
            raise InputError(f"{option} does not fit {what}: {error}") from error
        if held != asked:
            raise InputError(
                f"{option} {_shown(asked)} asks for another than {what}, which holds {_shown(held)}; leave it out, or "
                "gate the model"
            )
    if context.params["data"] is not None:
        _check_data(context.params, certificate, path)


def tell_changed(context: click.Context, certificate: Stored, path: Path) -> None:
    """Say of each file that is not here that it was not compared; one that is must be as when the proof was made.

    Raises:
        InputError: as :func:`changed`.
    """
    for word in changed(certificate, path, data=context.params["data"] is None):
        note(word)


def changed(certificate: Stored, path: Path, *, data: bool) -> list[str]:
    """A word on each file that is not here to be compared; those that are must be as when the proof was made.

    A file counts where it was named; else where it stands beside the certificate or above it.

    Args:
        certificate: as it was loaded.
        path: of the certificate.
        data: look at the data, too.

    Raises:
        InputError: the file of the model, or of its data, is another one than when the proof was made.
    """
    folder = path if path.is_dir() else path.parent
    notes = [_model(certificate, path, folder), *([_data(certificate, path, folder)] if data else [])]
    return [note for note in notes if note]


def _model(certificate: Stored, path: Path, folder: Path) -> str:
    source = str(certificate.model_info["source"])
    # A network in memory goes by the name of its class.
    if certificate.model_info.get("kind") != arguments.FILE and (not Path(source).suffix and source.isidentifier()):
        return ""
    file = _file(source, folder)
    if file is None:
        return f"{source} is not here, so whether it has changed since the proof was not looked at"
    if sha256(file) != certificate.model_info["sha256"]:
        raise InputError(
            f"{file} has changed since {_called(certificate, path)} was made (its SHA-256 is another); certify it anew"
        )
    if "code" in certificate.model_info:
        return _code(certificate, path, folder)
    _check_box(certificate, file, path)
    return ""


def _code(certificate: Stored, path: Path, folder: Path) -> str:
    """A word on code that is not here to be compared; what is compared is the file that was named, no other."""
    place = str(certificate.model_info["code"])
    source = source_file(place)
    file = None if source is None else _file(str(source), folder)
    if file is None:
        return f"whether the code of {place} has changed since the proof was not looked at"
    if sha256(file) != certificate.model_info.get("code_sha256"):
        raise InputError(
            f"{file} has changed since {_called(certificate, path)} was made (its SHA-256 is another); certify anew"
        )
    return ""


def _check_box(certificate: Stored, file: Path, path: Path) -> None:
    """The box that the certificate names is one of the model, and moves as many numbers as it says."""
    try:
        model = load(file, config=certificate.model_info.get("set"), dynamics=certificate.model_info.get("dynamics"))
    except InputError:  # a checkpoint of an architecture that is not known here
        return
    certificate.box.check(model)
    held = model_facts(model, certificate.box)["perturbed"]
    if held != certificate.model_info["perturbed"]:
        raise InputError(
            f"{_called(certificate, path)} is not as it was written: it speaks of "
            f"{certificate.model_info['perturbed']} numbers in its box, which are {held} of {file}"
        )


def _data(certificate: Stored, path: Path, folder: Path) -> str:
    name = str(certificate.data_info["name"])
    said = str(certificate.data_info.get("path", name))
    if "path" not in certificate.data_info and not name.endswith(".npz"):  # a task, or in memory
        return ""
    file = _file(said, folder) or _file(name, folder)
    if file is None:
        return f"{said} is not here, so whether its samples have changed since the proof was not looked at"
    if certificate.data_info["sha256"] not in _hashes(file, certificate):
        raise InputError(
            f"{file} has changed since {_called(certificate, path)} was made (its samples are others); certify anew, "
            "or name its data with --data"
        )
    return ""


def _check_data(given: Mapping[str, Any], certificate: Stored, path: Path) -> None:
    expected, total = certificate.data_info["sha256"], len(certificate.label)
    data = read_data(given["data"], given["split"], given["samples"], given["data_dir"])
    if expected not in _known_by(data, certificate):
        raise InputError(
            f"--data {given['data']} has other samples than those that {_called(certificate, path)} speaks of "
            f"({total} of {certificate.data_info['name'] or 'unnamed data'})"
        )


def _known_by(data: Dataset, certificate: Stored) -> tuple[str, ...]:
    """Hashes of a data set: its own, and that by which a certificate made in Python knows its arrays.

    The latter is of several inputs laid side by side, which are these only where they are as many numbers each.
    """
    shapes = None if data.parts is None else [list(part.shape) for part in data.parts]
    same = certificate.model_info.get("inputs") == shapes
    return (data.sha256, tensor_hash([data.x, data.y])) if same else (data.sha256,)


def _hashes(file: Path, certificate: Stored) -> Iterator[str]:
    """Of everything in a data file that a certificate of so many samples can have been made of."""
    for split in SPLITS:
        try:
            yield from _known_by(load_data(str(file), split).subset(len(certificate.label)), certificate)
        except InputError:
            continue


def _check_samples(certificate: Stored, option: str, value: Any) -> None:
    held = len(certificate.label)
    if option == "--samples" and value == held:
        return
    about = f", and the certificate holds {held}" if option == "--samples" else ""
    raise InputError(f"{option} chooses samples{about}: name them with --data too, or leave {option} out")


def _file(name: str, folder: Path) -> Path | None:
    """Where a file of this name stands: as it is said, else in a folder, else the nearest one around it."""
    for place in (Path(), folder, *folder.resolve().parents):
        with suppress(OSError, ValueError):  # a name that no file can have
            if (place / name).is_file():
                return place / name
    return None


def _patterns(text: str) -> list[str]:
    return sorted({p.strip() for p in text.split(",") if p.strip()})


def _setting(option: str) -> Compared:
    """Settings of the domain that an option names, with the domain's defaults where the certificate is silent."""

    def compare(certificate: Certificate, value: Any) -> tuple[Any, Any]:
        domain = certificate.domain
        given = literals("--option", value) if option == "option" else {option: value}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that will go
            asked = domains.recorded(domains.check(domain, given))
        defaults = domains.AUTO_DEFAULTS if domain == domains.AUTO else domains.domain_class(domain).defaults
        held = {**domains.recorded(defaults), **certificate.options}
        return [(key, held.get(key)) for key in asked], list(asked.items())

    return compare


def _numbers(field: str) -> Compared:
    """Patterns of the noise with their numbers; which pattern comes first counts."""
    return lambda c, value: (list(getattr(c.noise, field).items()), list(value))


OF_THE_MODEL: dict[str, Compared] = {"dynamics": lambda c, value: (c.model_info.get("dynamics", "none"), value)}
OF_THE_BOX: dict[str, Compared] = {
    "box_kind": lambda c, value: (c.box.kind, value),
    "include": lambda c, value: (_patterns(c.box.include), _patterns(value)),
    "exclude": lambda c, value: (_patterns(c.box.exclude), _patterns(value)),
    "scale": lambda c, value: (list(c.box.scale.items()), list(value)),
    "fold": lambda c, value: (c.box.fold, value),
}
COMPARED: dict[str, Compared] = {
    **OF_THE_MODEL,
    **OF_THE_BOX,
    "domain": lambda c, value: (c.domain, value),
    "criterion": lambda c, value: (c.criterion, value),
    "arithmetic": lambda c, value: (c.arithmetic, value),
    "precision": lambda c, value: (c.precision, value),
    **{option: _setting(option) for option in ("option", "effort", "budget")},
}
COMPARED_OF_A_YIELD: dict[str, Compared] = {
    **OF_THE_MODEL,
    **OF_THE_BOX,
    "noise": lambda c, value: (c.noise.kind, value),
    "noise_scale": _numbers("scale"),
    "correlated": lambda c, value: (sorted(c.noise.correlated.items()), sorted(value)),
    "drift": _numbers("drift"),
    "drift_bound": _numbers("drift_bound"),
    "method": lambda c, value: (c.method, value),
}
DATA = ("data", "split", "samples", "data_dir")


def _called(certificate: Stored, path: Path) -> str:
    return f"the {'certificate' if isinstance(certificate, Certificate) else 'proven yield'} at {path}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return (
            ",".join("=".join(str(part) for part in one) if isinstance(one, tuple) else one for one in value) or "none"
        )
    return str(value)
