#!/bin/sh
# Installs the servers that the tests of real behaviour start: knot (DNS),
# nginx (HTTP/1.1), tinyproxy (HTTP proxy), node (HTTP/2) and redis (shared breakers); and openssl
# for certificates.
# Does nothing when they are there; without root or apt it says what is missing
# and succeeds, because those tests then skip themselves visibly.
set -eu

PATH="$PATH:/usr/sbin:/usr/local/sbin"
missing=""
command -v knotd >/dev/null 2>&1 && command -v knotc >/dev/null 2>&1 || missing="$missing knot"
command -v nginx >/dev/null 2>&1 || missing="$missing nginx-light"
command -v tinyproxy >/dev/null 2>&1 || missing="$missing tinyproxy-bin"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing (Debian packages):$missing; the tests against these servers will skip" >&2
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
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
} || echo "could not be installed:$missing; the tests against these servers will skip" >&2
