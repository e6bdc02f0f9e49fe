#!/bin/sh
# Installs the servers that the tests of real behaviour start: knot (DNS).
# Does nothing when they are there; without root or apt it says what is missing
# and succeeds, because those tests then skip themselves visibly.
set -eu

PATH="$PATH:/usr/sbin:/usr/local/sbin"
if command -v knotd >/dev/null 2>&1 && command -v knotc >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "knotd is missing (Debian package: knot); the tests against a real DNS server will skip" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# Packages start their service on installation; the tests want only the program.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get install -y -qq --no-install-recommends knot >/dev/null 2>&1 || {
    apt-get update -qq && apt-get install -y -qq --no-install-recommends knot >/dev/null
} || echo "knot could not be installed; the tests against a real DNS server will skip" >&2
