"""What a private node reads when it boots: its configuration, plugins, cookie, environment."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker_config.node.ports import LOOPBACK, Ports
from broker_config.node.processes import MARK
from broker_config.secrets.certificates import Authority
from warren_shared.files import private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONFIGURATION: Final = """\
# Written by `broker-config up`; changes are overwritten.
{listeners}
# Relative to the folder the node runs in: a value cannot hold every character of a path.
load_definitions = definitions.json
log.console = false
log.file.level = info
vm_memory_high_watermark.relative = 0.4
# RabbitMQ's own 50 MB is less than one round of updates: the disk would be full before the alarm.
disk_free_limit.absolute = 512MB
# A quorum queue's log stays in memory up to this size (default 512 MB) ...
raft.wal_max_size_bytes = 134217728
# ... and then in files of so many messages, each deleted as a whole; the default of 4096 messages
# of 1 MiB would keep 4 GiB on disk for one that is still needed.
raft.segment_max_entries = 256
# As RabbitMQ 4 has it; 3.10 takes 128 MiB. Nothing of ours is longer than 3.
max_message_size = 16777216
"""

_PLAIN: Final = """\
listeners.tcp.1 = {amqp_on}
management.tcp.ip = {loopback}
management.tcp.port = {management}"""
# The files are relative to the node's folder too.
_TLS: Final = """\
listeners.tcp = none
listeners.ssl.1 = {amqp_on}
ssl_options.cacertfile = ca.pem
ssl_options.certfile = server.pem
ssl_options.keyfile = server.key
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
ssl_options.verify = {verify}
ssl_options.fail_if_no_peer_cert = {required}
management.ssl.ip = {loopback}
management.ssl.port = {management}
management.ssl.cacertfile = ca.pem
management.ssl.certfile = server.pem
management.ssl.keyfile = server.key
management.ssl.versions.1 = tlsv1.3
management.ssl.versions.2 = tlsv1.2"""
_MUTUAL: Final = """
auth_mechanisms.1 = EXTERNAL
ssl_cert_login_from = common_name"""
# Figures, no secrets, and on the loopback address: no TLS.
_PROMETHEUS: Final = """
prometheus.tcp.ip = {host}
prometheus.tcp.port = {port}"""

# RabbitMQ looks into every module of these applications when it boots and loads them one by one,
# which takes two thirds of the time. Loading them all at once uses the other processors and takes
# a boot from 7 s to 2.5 s. A name that a release does not know is passed over.
_PRELOADED: Final = (
    "rabbitmq_prelaunch rabbit_common cuttlefish getopt rabbit ra osiris mnesia sysmon_handler "
    "os_mon credentials_obfuscation observer_cli recon stdout_formatter systemd aten "
    "gen_batch_server seshat syslog enough khepri khepri_mnesia_migration horus ranch cowlib "
    "cowboy amqp_client amqp10_common rabbitmq_management_agent rabbitmq_web_dispatch "
    "rabbitmq_management oauth2_client thoas jsx ssl public_key crypto asn1 inets sasl xmerl "
    "tools syntax_tools compiler stdlib kernel "
)
_PRELOAD: Final = (
    "spawn(fun()->lists:foreach(fun(A)->case(code:lib_dir(A))of{error,_}->ok;"
    "D->code:ensure_modules_loaded([list_to_atom(filename:rootname(F))||"
    "F<-element(2,file:list_dir(filename:join(D,ebin))),"
    "filename:extension(F)=:=[$.,$b,$e,$a,$m]])end,ok"
    f" end,[{','.join(_PRELOADED.split())}])end),"
)
# A channel that breaks off in the middle of a delivery writes the message, bytes as numbers, into
# the log, at a second for each megabyte. It is 70 s until its supervisor kills it, and so long it
# remains the queue's active consumer, and no other gets anything.
_MAX_LOGGED_BYTES: Final = 1 << 16
_CUT_LOG_SHORT: Final = (
    "logger:add_primary_filter(cut_short,{fun(#{msg:=M}=E,_)->"
    f"case(erlang:external_size(M)>{_MAX_LOGGED_BYTES})of"
    " true->E#{msg:={[126,116,80],[M,30]}};false->ignore end end,none})."  # ~tP
)


def log_file(folder: Path) -> Path:
    """RabbitMQ's log."""
    return folder / "log" / "node.log"


def output_file(folder: Path) -> Path:
    """What the node prints before it has a log."""
    return folder / "log" / "output.log"


def server_pid_file(folder: Path) -> Path:
    """Where RabbitMQ's pid is noted as it starts."""
    return folder / "server.pid"


def epmd_pid_file(folder: Path) -> Path:
    """Where the pid of its name server is."""
    return folder / "epmd.pid"


def has_data(folder: Path) -> bool:
    """Whether the node in ``folder`` has begun to keep data."""
    return (folder / "data").exists()


def write_files(
    folder: Path,
    ports: Ports,
    definitions: Mapping[str, Any],
    tls: str = "",
    host: str = "",
    *,
    authority: Path,
    cluster: str = "",
    cookie: str = "",
) -> None:
    """Write into ``folder`` all that the node reads; ``tls`` is "", "tls" or "mutual".

    ``host`` is what other machines call this one; "" if they are not let in. ``authority`` is the
    home whose authority vouches for it, ``cluster`` what its configuration says of a cluster,
    ``cookie`` the cluster's (default: one is made up).
    """
    private_folder(folder / "log")
    configuration = _CONFIGURATION.format(listeners=_listeners(ports, tls, host)) + cluster
    if tls:
        vouching = Authority(authority)
        server = vouching.server([host] if host else [])
        for path in (vouching.certificate, server.certificate, server.key):
            write_private(folder / path.name, path.read_text())
    write_private(folder / "rabbitmq.conf", configuration)
    write_private(folder / "rabbitmq-env.conf", "# Everything is set by broker-config.\n")
    write_private(folder / "enabled_plugins", f"[{','.join(_plugins(ports, tls))}].\n")
    write_private(folder / "definitions.json", json.dumps(definitions, indent=1))
    path = folder / ".erlang.cookie"
    if not path.exists():
        # Never by -setcookie: the process list would show it to everybody.
        write_private(path, cookie or secrets.token_hex(20), mode=0o400)


def _plugins(ports: Ports, tls: str) -> list[str]:
    mutual = ["rabbitmq_auth_mechanism_ssl"] if tls == "mutual" else []
    prometheus = ["rabbitmq_prometheus"] if ports.prometheus else []
    return ["rabbitmq_management", *mutual, *prometheus]


def _listeners(ports: Ports, tls: str, host: str) -> str:
    mutual = tls == "mutual"
    text = (_TLS if tls else _PLAIN) + (_MUTUAL if mutual else "")
    if ports.prometheus:
        text += _PROMETHEUS.format(host=LOOPBACK, port=ports.prometheus)
    return text.format(
        # The name may belong to a router before this machine, so AMQP is on all its addresses; what
        # only an administrator needs never is.
        amqp_on=ports.amqp if host else f"{LOOPBACK}:{ports.amqp}",
        loopback=LOOPBACK,
        management=ports.management,
        verify="verify_peer" if mutual else "verify_none",
        required=str(mutual).lower(),
    )


def environment(folder: Path, name: str, ports: Ports) -> dict[str, str]:
    """The node's environment, in which nothing points outside ``folder``."""
    # The caller's own RabbitMQ and Erlang settings are meant for another node.
    ours = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return ours | {
        MARK: str(folder),
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
        "ERL_AFLAGS": f'-eval "{_PRELOAD}{_CUT_LOG_SHORT}"',
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_MNESIA_DIR": str(folder / "data" / "node"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": str(log_file(folder)),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        # Tied to a processor each, its schedulers would wait for a training that occupies it.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(_erl_arguments(name, ports)),
        # Makes the start script become the Erlang VM instead of waiting for it as a child, so
        # that the pid we know is the one that a signal must reach.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


_FOREIGN: Final = ("RABBITMQ_", "ERL_", "WARREN_", "NOTIFY_SOCKET")


def _erl_arguments(name: str, ports: Ports) -> list[str]:
    """Flags of the Erlang VM; none may hold a space, the start script splits there."""
    schedulers = min(os.cpu_count() or 1, 8)
    return [
        # Idle schedulers would otherwise spin, and take the processor from the clients' training.
        *("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
        *("+S", f"{schedulers}:{schedulers}"),
        *_super_carrier(),
        # RabbitMQ would start a second VM to find out whether it may be called this.
        *("-sname", name, "-start_epmd", "false"),
        *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        *("-kernel", "inet_dist_listen_min", str(ports.distribution)),
        *("-kernel", "inet_dist_listen_max", str(ports.distribution)),
    ]


def _super_carrier() -> list[str]:
    """One big reservation of address space: 1 MiB messages pass half as fast again (FACTS.md)."""
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if overcommit.exists() and overcommit.read_text().strip() == "2":
        return []  # Here a reservation counts as use, and the VM might not start.
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return ["+MMscs", str(min(4096, memory_mib // 8 * 2))]
