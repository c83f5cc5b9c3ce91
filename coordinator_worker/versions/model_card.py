"""A model card in Markdown, from what checkpoint and audit log know of a version.

Nothing in it depends on anything but the folder, the version and the day it is written. What a
person has to say about a model, the last section asks for.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import prod
from statistics import median
from typing import Final

from coordinator_worker.privacy.report import facts, rows
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.roster import GONE_AFTER, Standing, participation
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import Setup
from coordinator_worker.text.formatting import size
from coordinator_worker.text.markdown import sparkline, table, text
from coordinator_worker.versions.lineage import Lineage, lineage, records
from coordinator_worker.versions.registry import ModelRegistry
from warren_shared.errors import ConfigError
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import CONTROL

MAX_ROWS: Final = 50
ALWAYS: Final = ("aggregator", "server_optimizer", "quorum", "participation", "max_staleness")
# What evaluations call it -> what Hugging Face's hub does.
HUB_METRICS: Final = {
    "eval_accuracy": "accuracy",
    "eval_auc": "roc_auc",
    "eval_f1": "f1",
    "eval_macro_f1": "f1",
    "eval_precision": "precision",
    "eval_recall": "recall",
}
LIMITS: Final = """\
Only you know these. Replace each line; a card without them is not finished.

- **Meant for**: who may use the model, and for what.
- **Not meant for**: what it was never tested on, and what it must not decide.
- **Who is in the data, and who is not**: sites, years, devices, groups of people.
- **Where it fails**: the errors that you have seen, and what they would cost.
- **Who answers for it**: a person, and until when.
"""


def card(
    past: ModelRegistry,
    wanted: str,
    *,
    names: bool,
    day: str,
    license_id: str | None = None,
    library: str | None = None,
) -> str:
    """The card of the version that ``wanted`` names, written on ``day``.

    With ``names`` clients are called by theirs, else numbered by their share of the data.
    ``license_id`` and ``library`` are told to Hugging Face's hub, in its words; nothing here knows
    them.

    Raises ConfigError if there never was such a version, or a word is none of the hub's form.
    """
    version = past.number(wanted)
    if version is None or not 0 <= version <= past.state.version:
        raise ConfigError(f"{wanted} is no version of this run: they are 0 to {past.state.version}")
    line = lineage(past, version)
    known = records(past, line)
    sections = (
        _front_matter(past, line, license_id, library),
        _head(past, line, day),
        _model(past),
        _data(past, line, names=names),
        _algorithm(past, version),
        *_privacy(past, version),
        _rounds(line, known),
        _metrics(past, line, names=names),
        _provenance(line),
        f"## Known limits\n\n{LIMITS}",
    )
    return "\n".join(sections)


# --- sections -------------------------------------------------------------------------------------


def _front_matter(
    past: ModelRegistry, line: Lineage, license_id: str | None, library: str | None
) -> str:
    """What Hugging Face's hub reads of a card: YAML between two lines of dashes.

    No ``model-index``: its results are of a data set, by name, and the federation's has none.
    """
    told = [
        f"{key}: {_word(flag, value)}"
        for key, flag, value in (
            ("license", "--license", license_id),
            ("library_name", "--library-name", library),
        )
        if value is not None
    ]
    setups = [each for each in past.state.setup if each["version"] <= line.version]
    settings = [each["settings"] for each in setups if "settings" in each]
    is_masked = bool(settings and settings[-1].get("secure"))
    tags = ["federated-learning", "warren"]
    tags += ["differential-privacy"] if past.state.privacy is not None else []
    tags += ["secure-aggregation"] if is_masked else []
    told += ["tags:", *(f"- {tag}" for tag in tags)]
    reported = past.metrics(line.version)
    metrics = dict.fromkeys(theirs for ours, theirs in HUB_METRICS.items() if ours in reported)
    told += ["metrics:", *(f"- {name}" for name in metrics)] if metrics else []
    return "\n".join(("---", *told, "---\n"))


def _word(flag: str, value: str) -> str:
    """A word of the hub's, as YAML reads it: quoted, or ``no`` would be a boolean."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]{0,63}", value):
        raise ConfigError(
            f"{flag} {value}: write one of the hub's words, such as"
            f" {'apache-2.0' if flag == '--license' else 'keras'}"
        )
    return f'"{value}"'


def _head(past: ModelRegistry, line: Lineage, day: str) -> str:
    state = past.state
    facts: list[tuple[str, object]] = [
        ("federation", state.federation),
        ("run", state.run),
        ("version", line.version),
        ("made", past.made_at(line.version) or "unknown"),
        ("rounds behind it", len(line.rounds)),
        ("clients behind it", len(line.roster)),
        ("digest of the weights (XXH3)", line.digest or "unknown"),
        ("this card", day),
    ]
    record = past.record(line.version)
    if record is not None and record.rolled_back is not None:
        facts.insert(3, ("rolled back to", record.rolled_back.source))
    if state.best is not None and state.best.version == line.version:
        facts.insert(3, ("best of its run", f"monitored metric {state.best.value:.4g}"))
    title = f"# Model card: {text(state.federation)}, version {line.version}\n"
    about = (
        "Trained by federated learning: each client trained on its own data and sent a weight delta"
        " only. Written by `coordinator-worker card` from the run's checkpoint and audit log.\n"
    )
    return "\n".join((title, about, table(("", ""), facts)))


def _model(past: ModelRegistry) -> str:
    tensors = [t for t in past.state.weights.layout.tensors if not t.name.startswith(CONTROL)]
    sizes = [prod(tensor.shape) for tensor in tensors]
    rows = [
        (t.name, "×".join(map(str, t.shape)) or "one number", t.dtype, f"{numbers:,}")
        for t, numbers in zip(tensors, sizes, strict=True)
    ]
    said = (
        f"{len(tensors)} tensors, {sum(sizes):,} parameters,"
        f" {size(sum(tensor.size_bytes for tensor in tensors))}.\n"
    )
    if FROZEN_WEIGHTS in past.state.fixed_state:
        said += (
            "\nThese are the tensors that train (`--exchange trainable`). The frozen rest is at"
            f" the sites; its digest is `{past.state.fixed_state[FROZEN_WEIGHTS]}`.\n"
        )
    rows_shown = table(("tensor", "shape", "type", "parameters"), rows[:MAX_ROWS])
    return "\n".join(("## Model\n", said, rows_shown + _more(len(rows), "tensors")))


def _data(past: ModelRegistry, line: Lineage, *, names: bool) -> str:
    standings = participation(line.roster, len(line.rounds))
    standings.sort(key=lambda standing: (-standing.member.examples, standing.client))
    total = sum(standing.member.examples for standing in standings)
    is_told = past.state.privacy is None and bool(total)
    rows = [
        (
            standing.client if names else f"client {number}",
            f"{standing.member.examples:,}" if is_told else "not told",
            f"{standing.data_share:.1%}" if is_told else "not told",
            standing.member.contributions,
            _standing(standing),
        )
        for number, standing in enumerate(standings, start=1)
    ]
    said = [
        f"{len(standings)} clients, {total:,} examples, as the clients themselves counted them when"
        " each last took part. The data never left them, and is not described here.\n"
        if is_told or not standings
        else f"{len(standings)} clients; how many examples {_each(past)} is not told, for the sake"
        " of their privacy. The data never left them, and is not described here.\n"
    ]
    if not line.complete:
        said.append("The audit log does not tell of every round, so some are not counted here.\n")
    rows_shown = table(
        ("client", "examples", "share", "updates", "last took part"), rows[:MAX_ROWS]
    )
    missing = [standing for standing in standings if standing.status == "gone"]
    silent = {*past.state.roster, *past.state.unseen} - set(line.roster)
    gone = sum(standing.data_share for standing in missing)
    said += [
        rows_shown + _more(len(rows), "clients"),
        "### Who is missing\n",
        f"- {len(missing)} clients have not taken part in the last {GONE_AFTER} rounds"
        f"{f'; they stand for {gone:.1%} of the examples' if is_told else ''}.\n"
        f"- {len(silent)} clients are known to the federation and nothing of them is in this"
        f" version{_listed(silent) if names else ''}; how much data they have is not known.\n",
    ]
    return "\n".join(("## Training data\n", *said))


def _each(past: ModelRegistry) -> str:
    """What is not told of examples; of masked updates their sum is."""
    record = past.state.history[-1] if past.state.history else None
    if record is None or not record.examples:
        return "they have"
    return f"each has (together {record.examples:,} in the last round)"


def _algorithm(past: ModelRegistry, version: int) -> str:
    setups = [each for each in past.state.setup if each["version"] <= version]
    parts = ["## Algorithm and settings\n"]
    if (brought := next((s["imported"] for s in setups if "imported" in s), None)) is not None:
        source, digest = text(str(brought.get("source"))), brought.get("digest")
        parts.append(f"Training began with the weights of {source} (XXH3 `{digest}`).\n")
    told = [each for each in setups if "settings" in each]
    if not told:
        parts.append("The checkpoint does not say: it was written by an older Warren.\n")
        return "\n".join(parts)
    newest = told[-1]
    parts.append(table(("setting", "value"), _shown(newest["settings"])))
    trust = newest.get("trust", {})
    sealed = (
        "could be encrypted to the coordinator" if trust.get("sealed") else "were not encrypted"
    )
    masked = ""
    if newest["settings"].get("secure"):
        masked = " They were masked, so only sums of several clients' could be read."
    parts.append(
        f"Models were {'' if trust.get('signed') else 'not '}signed by the coordinator; updates"
        f" {sealed}.{masked} All other settings have their defaults.\n"
    )
    parts += _changes(told)
    software = ", ".join(f"{name} {number}" for name, number in newest["software"].items())
    parts.append(f"Coordinator: {text(software)}.\n")
    return "\n".join(parts)


def _privacy(past: ModelRegistry, version: int) -> Iterator[str]:
    """Of a private run."""
    if past.state.privacy is None:
        return
    told = facts(past.state.privacy)
    record = past.record(version)
    if record is not None and record.privacy is not None:
        told["epsilon"] = record.privacy.epsilon
    said = table(("", ""), rows(told))
    yield f"## Privacy\n\nDifferential privacy of each client (docs/privacy.md).\n\n{said}"


def _changes(told: Sequence[Setup]) -> Iterator[str]:
    found = []
    for before, after in pairwise(told):
        for kind in ("settings", "software"):
            old, new = before[kind], after[kind]
            found += [
                f"- from version {after['version']}: {name}"
                f" {_value(old.get(name))} → {_value(new.get(name))}"
                for name in dict.fromkeys((*old, *new))
                if old.get(name) != new.get(name)
            ]
    if found:
        yield "Changed while it was trained:\n\n" + "\n".join(found) + "\n"


def _rounds(line: Lineage, known: Sequence[RoundRecord]) -> str:
    rejected: Counter[str] = Counter()
    for record in known:
        rejected.update(record.rejected)
    reasons = ", ".join(f"{text(reason)} {count}" for reason, count in sorted(rejected.items()))
    diverged = sum(1 for record in known if record.diverged)
    seconds = [record.seconds for record in known]
    facts: list[tuple[str, object]] = [
        ("rounds", len(line.rounds)),
        ("updates", sum(record.updates for record in known)),
        ("updates dropped half-way", sum(record.incomplete for record in known)),
        ("updates rejected", f"{rejected.total()}{f' ({reasons})' if reasons else ''}"),
        ("rounds refused since the model diverged", diverged),
        ("received from clients", _received(known)),
        ("a round's length, median", f"{median(seconds):.3g} s" if seconds else "unknown"),
    ]
    lost = len(line.rounds) - len(known)
    said = f"Of the oldest {lost} only the audit log still tells.\n" if lost else ""
    return "\n".join(filter(None, ("## Rounds\n", said, table(("", ""), facts))))


def _metrics(past: ModelRegistry, line: Lineage, *, names: bool) -> str:
    curves: dict[str, list[tuple[int, float]]] = {}
    versions = [*line.rounds, *({line.version} - set(line.rounds))]
    for version in versions:
        for name, value in past.metrics(version).items():
            curves.setdefault(name, []).append((version, value))
    if not curves:
        return "## Metrics\n\nThe clients reported none.\n"
    rows = []
    for name, curve in sorted(curves.items(), key=lambda item: not item[0].startswith("eval_")):
        values = [value for _, value in curve]
        (first, start), (last, end) = curve[0], curve[-1]
        rows.append(
            (
                name,
                f"{start:.4g} (version {first})",
                f"{end:.4g} (version {last})",
                f"{min(values):.4g} to {max(values):.4g}",
                sparkline(values),
            )
        )
    said = (
        "`eval_…` is what a version is worth on the clients' held-out data, pooled over those that"
        " judged it; the others are training's own figures.\n"
    )
    headings = ("metric", "first", "last", "range", "curve")
    shown = ("## Metrics\n", said, table(headings, rows), *_sites(past, line.version, names=names))
    return "\n".join(shown)


def _sites(past: ModelRegistry, version: int, *, names: bool) -> Iterator[str]:
    """How far the clients of the last round are apart."""
    record = past.record(version)
    if record is None or not record.sites:
        return
    rows = [
        (
            name,
            found.clients,
            f"{found.low:.4g}{f' ({found.low_client})' if names else ''}",
            f"{found.high:.4g}{f' ({found.high_client})' if names else ''}",
        )
        for name, found in record.sites.items()
    ]
    yield (
        "### Between sites\n\nWhat single clients of the last round report, each of its own data:"
        " a mean hides a site for which the model does not work.\n"
    )
    yield table(("metric", "clients", "lowest", "highest"), rows)


def _provenance(line: Lineage) -> str:
    if line.head is None:
        return "## Provenance\n\nThere is no audit log in the checkpoint folder.\n"
    wrong = [fault for fault in line.faults if "torn" not in fault]
    said = (
        f"**The audit log is not as it was written**: {text(wrong[0])}.\n"
        if wrong
        else "The audit log is as it was written: each line has the digest of the one before it.\n"
    )
    return "\n".join(
        (
            "## Provenance\n",
            said,
            f"SHA-256 of its last line: `{line.head}`. `coordinator-worker audit VERSION` says"
            " whose updates made each version, with their digests and weights.\n",
        )
    )


# --- words ----------------------------------------------------------------------------------------


def _shown(given: Setup) -> list[tuple[str, object]]:
    """Settings that are not their defaults, and those that everybody asks for."""
    fields = CoordinatorSettings.model_fields
    defaults = {name: field.get_default() for name, field in fields.items()}
    return [
        (name.replace("_", "-"), _value(value))
        for name, value in given.items()
        if name in ALWAYS or _value(value) != _value(defaults.get(name))
    ]


def _value(value: object) -> str:
    if value in (None, [], ()):
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _standing(standing: Standing) -> str:
    ago = standing.behind
    return "in the last round" if not ago else f"{ago} round{'s' if ago > 1 else ''} before it"


def _listed(clients: Iterable[str]) -> str:
    there = sorted(clients)
    shown = ", ".join(text(client) for client in there[:MAX_ROWS])
    return f" ({shown}{', …' if len(there) > MAX_ROWS else ''})" if there else ""


def _more(count: int, what: str) -> str:
    return f"\n… and {count - MAX_ROWS} more {what}.\n" if count > MAX_ROWS else ""


def _received(records: Sequence[RoundRecord]) -> str:
    sent = sum(record.bytes_up for record in records)
    raw = sum(record.raw_bytes_up or record.bytes_up for record in records)
    return size(sent) if raw == sent else f"{size(sent)} ({size(raw)} before encoding)"
