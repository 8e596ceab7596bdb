#!/bin/sh
# Installs the packages of packages.txt that are not there. Quick when all are: one question to dpkg, no root needed.
set -eu
list="$(dirname "$0")/packages.txt"
missing=""
for package in $(sed 's/#.*//' "$list"); do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -q
# shellcheck disable=SC2086  # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
