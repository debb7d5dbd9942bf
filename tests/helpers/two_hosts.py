"""Two hosts on this machine: network namespaces with a cable between them, which can be pulled out."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAMES = ("minigam1", "minigam2")  # of the namespaces; the hosts are host1 and host2
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CARRIER_S = 1.5  # until the system calls a cable that was plugged in usable

# What mpiexec calls for ssh: options, the address of a host, a command.
LOG_IN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
n=${1##*.}; shift
exec ip netns exec minigam$n unshare --uts sh -c "hostname host$n; exec $*"
"""


def why_not() -> str | None:
    """Return why there cannot be two hosts here; None if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root, and ip of the package iproute2"
    try:
        _ip("netns", "add", NAMES[0])
        _ip("netns", "del", NAMES[0])
    except subprocess.CalledProcessError as e:
        return f"network namespaces cannot be made here ({e.stderr.strip()})"
    return None


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Make the hosts and the cable; yield what to write before a command that runs on the first host, and the
    environment with which mpiexec reaches both over the cable alone."""
    log_in = folder / "log-in"
    log_in.write_text(LOG_IN)
    log_in.chmod(0o755)
    try:
        for name in NAMES:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "link",
            "add",
            "cable",
            "netns",
            NAMES[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            NAMES[1],
        )
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
        plug(True)
        environment = {
            "HYDRA_LAUNCHER_EXEC": str(log_in),
            "UCX_TLS": "tcp", "UCX_NET_DEVICES": "cable", "MPIR_CVAR_NOLOCAL": "1",  # no shared memory
        }  # fmt: skip
        yield [str(log_in), ADDRESSES[0]], environment
    finally:
        for name in NAMES:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def plug(connected: bool) -> None:
    """Plug the cable in, or pull it out."""
    for name in NAMES if connected else NAMES[:1]:
        _ip("-n", name, "link", "set", "cable", "up" if connected else "down")
    if connected:
        time.sleep(CARRIER_S)


def _ip(*arguments: str) -> None:
    subprocess.run([shutil.which("ip"), *arguments], check=True, capture_output=True, text=True)
