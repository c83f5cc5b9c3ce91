"""``coordinator-worker alarm``: a program or an address that hears when something is gone."""

import argparse
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Final
from urllib.parse import urlsplit

from coordinator_worker.monitoring.alarms import Alarm, Alarms
from coordinator_worker.monitoring.events import FederationFinished, Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.follower import Follower
from warren_shared import strict_json
from warren_shared.config import settings
from warren_shared.errors import BrokerUnavailable, ConfigError, Stopped
from warren_shared.observability import log
from warren_shared.observability.log import Log
from warren_shared.service import lifecycle

ABOUT = (
    "Follow a federation, and run a program or call an address when the coordinator, the broker or"
    " a site is gone or the run waits, and again when that is over. Takes the watcher's bundle, on"
    " any machine: best on another one than the coordinator's. For those without Grafana."
)

LOOK_S: Final = 1.0
PATIENCE_S: Final = 30.0  # with a program or an address

said = Log(__name__)


def run(argv: list[str]) -> None:
    """Follow until we are asked to stop; with ``--until-finished`` until the run ends.

    Raises:
        ConfigError: neither a program nor an address is given.
    """
    own = _flags()
    given, _ = settings.load(settings.WatcherSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, settings.WatcherSettings, argv)
    if asked.run is None and asked.url is None:
        raise ConfigError("say what to do: --run 'PROGRAM …' or --url ADDRESS")
    log.configure(given.log_format, given.log_level)
    stopped = threading.Event()
    followers: list[Follower] = []  # the one of now

    def stop() -> None:
        stopped.set()
        for each in followers:
            each.leave()

    lifecycle.on_stop_signal(stop)
    _follow(given, asked, stopped, followers)


def _follow(
    given: settings.WatcherSettings,
    asked: argparse.Namespace,
    stopped: threading.Event,
    followers: list[Follower],
) -> None:
    """Look each second; a broker that does not answer is told, and tried again."""

    def changed(event: Stamped | None) -> None:
        finished = event is not None and isinstance(event.event, FederationFinished)
        if finished and asked.until_finished:
            stopped.set()

    def tell_all(found: Iterable[Alarm]) -> None:
        for alarm in found:
            tell(alarm, given.federation, asked.run, asked.url)

    alarms = Alarms(asked.after_s)
    while not stopped.is_set():
        follower = Follower(given.broker, f"alarm · {given.federation}", changed)
        followers[:] = [follower]
        if stopped.is_set():  # before it could be told to leave
            break
        try:
            with suppress(Stopped), follower:
                while not stopped.wait(LOOK_S):
                    with follower.lock:
                        seconds, notice = follower.silence_s, follower.notice
                        found = list(alarms.look(follower.view, seconds, notice, time.monotonic()))
                    tell_all(found)
        except BrokerUnavailable as away:
            tell_all(alarms.look(FederationView(), 0.0, str(away), time.monotonic()))


def tell(alarm: Alarm, federation: str, program: str | None, url: str | None) -> None:
    """Run the program, call the address; that one of them fails is said and harms nothing."""
    say = said.info if alarm.is_over else said.warning
    say("alarm", "%s", alarm.words, kind=alarm.kind, about=alarm.about)
    facts = {**asdict(alarm), "federation": federation}
    if program is not None:
        _run(shlex.split(program), facts)
    if url is not None:
        _call(url, facts)


def _run(words: list[str], facts: dict[str, object]) -> None:
    told = {
        "WARREN_ALARM": str(facts["words"]),
        "WARREN_ALARM_KIND": str(facts["kind"]),
        "WARREN_ALARM_ABOUT": str(facts["about"]),
        "WARREN_ALARM_IS_OVER": "1" if facts["is_over"] else "",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    try:
        done = subprocess.run(
            words, env=kept | told, input=f"{facts['words']}\n", text=True, timeout=PATIENCE_S,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        said.error("alarm_failed", "--run: %s", error)
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        said.error("alarm_failed", "--run ended with %d: %s", done.returncode, last[:200])


def _call(url: str, facts: dict[str, object]) -> None:
    import urllib3

    try:
        answer = urllib3.request(
            "POST", url, body=strict_json.dumps(facts).encode(), timeout=PATIENCE_S, retries=2,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
    except urllib3.exceptions.HTTPError as error:
        said.error("alarm_failed", "--url: %s", type(error).__name__)
        return
    if answer.status >= 400:
        said.error("alarm_failed", "--url answered %d", answer.status)


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="coordinator-worker alarm", add_help=False, allow_abbrev=False
    )
    flags.add_argument(
        "--run",
        metavar="PROGRAM",
        help="program that is run: it reads one line, and finds it in WARREN_ALARM, with"
        " WARREN_ALARM_KIND (broker, coordinator, waits, site), _ABOUT and _IS_OVER",
    )
    flags.add_argument(
        "--url", type=_url, help="http or https address that gets the same as JSON, by POST"
    )
    flags.add_argument(
        "--after-s",
        type=_seconds,
        default=60.0,
        help="how long it has to last before it is told (default: 60)",
    )
    flags.add_argument(
        "--until-finished", action="store_true", help="end with the run, instead of going on"
    )
    return flags


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text} is no http or https address")
    return text


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return found
