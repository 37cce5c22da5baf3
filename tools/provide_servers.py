"""Install the Debian packages that the suite talks to, or name those that are missing."""

import os
import shutil
import subprocess
import sys

# program → the package that has it
NEEDED = {
    "/usr/sbin/postfix": "postfix",  # the relay; brings smtp-sink and smtp-source
    "/usr/sbin/saslpasswd2": "sasl2-bin",  # who may log in at the relay
    "/usr/bin/redis-server": "redis-server",  # the broker of a peer in the benches
}


def missing() -> list[str]:
    """List the packages that are not there."""
    return sorted({p for path, p in NEEDED.items() if not shutil.which(path)})


def install(packages: list[str]) -> None:
    """Install them; a relay from apt starts by itself on port 25, so it is told not to."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        check=True,
        env=quiet,
    )


def main() -> None:
    """Provide, or stop and say what to install."""
    packages = missing()
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"The tests need these Debian packages: {' '.join(packages)}")
    print("installing", *packages)
    install(packages)
    if still := missing():
        sys.exit(f"apt could not install: {' '.join(still)}")


if __name__ == "__main__":
    main()
