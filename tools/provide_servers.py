"""Install the Debian packages that the suite talks to, or name those that are missing.

Nothing that apt installs here is left running: a package that starts its service by itself is
held back by a policy-rc.d, Debian's own switch for that, which is put there for the while of the
installation and taken away afterwards. The suite starts what it needs on ports of its own.
"""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# what must be there (a pattern, since the multiarch folder differs) → the package that has it
NEEDED = {
    "/usr/sbin/postfix": "postfix",  # the relay; brings smtp-sink and smtp-source
    "/usr/sbin/saslpasswd2": "sasl2-bin",  # who may log in at the relay
    "/usr/lib/*/sasl2/libcrammd5.so": "libsasl2-modules",  # by which mechanisms
    "/usr/lib/*/sasl2/libsasldb.so": "libsasl2-modules-db",  # and where that is kept
    "/usr/lib/postgresql/*/bin/postgres": "postgresql",  # an outbox on a server
    "/usr/sbin/pgbouncer": "pgbouncer",  # what may stand before it
    "/usr/sbin/mariadbd": "mariadb-server",  # another
    "/usr/bin/redis-server": "redis-server",  # a broker of engines, and of a peer in the benches
    "/usr/sbin/rabbitmq-server": "rabbitmq-server",  # the other broker; brings Erlang
    "/usr/bin/spamassassin": "spamassassin",  # what scores mail; its daemon is another package
    "/usr/sbin/opendkim": "opendkim",  # another's word on our signatures
}
POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = "#!/bin/sh\nexit 101\n"  # 101: action forbidden by policy (invoke-rc.d)
KEYS_OF_RULES = "/var/lib/spamassassin/sa-update-keys"  # to which its installation adds one
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")


def missing() -> list[str]:
    """List the packages that are not there."""
    return sorted({package for pattern, package in NEEDED.items() if not glob.glob(pattern)})  # noqa: PTH207  an absolute pattern


@contextlib.contextmanager
def nothing_starts() -> Iterator[None]:
    """Forbid services to start while apt works; whatever policy was there comes back."""
    kept = POLICY.with_name("policy-rc.d.kept-by-flask-outbox")
    if POLICY.exists() and not kept.exists():  # one left by a killed run is the true one
        POLICY.rename(kept)
    POLICY.write_text(FORBIDDEN)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept.exists():
            kept.replace(POLICY)
        else:
            POLICY.unlink()


def install(packages: list[str]) -> None:
    """Install them without a question asked and without a service started."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*APT, "update"], check=True, env=quiet)
    with nothing_starts():
        subprocess.run(
            [*APT, "install", "-y", "--no-install-recommends", *packages],
            check=True,
            env=quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def stop_agents() -> None:
    """End the key agent that the installation of spamassassin leaves running."""
    if Path(KEYS_OF_RULES).is_dir() and shutil.which("gpgconf"):
        kill = ["gpgconf", "--homedir", KEYS_OF_RULES, "--kill", "gpg-agent"]
        subprocess.run(kill, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Provide, or stop and say what to install."""
    packages = missing()
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"The tests need these Debian packages: {' '.join(packages)}")
    print("installing", *packages, flush=True)
    install(packages)
    stop_agents()
    if still := missing():
        sys.exit(f"apt could not install: {' '.join(still)}")


if __name__ == "__main__":
    main()
