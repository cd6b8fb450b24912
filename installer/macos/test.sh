#!/bin/sh
# What only a Mac can tell: the packed application, its signature, and a machine under the real vfkit.
#   test.sh Coracle-VERSION-ARCH.zip
# Wants docker's command line and cargo in PATH, and the guest's image with an engine double, made on Linux
# (`cargo xtask double --arch ARCH`), at its place: target/double/share/coracle/guest/ARCH.
set -eux
zip=$1
work=$(mktemp -d /tmp/coracle-test.XXXX)
ditto -x -k "$zip" "$work"
app=$work/Coracle.app
codesign --verify --deep --strict "$app"
spctl --assess --type execute "$app"
codesign --display --entitlements - "$app/Contents/MacOS/vfkit" | grep -q com.apple.security.virtualization

export CORACLE_HOME="$work/home"
coracle=$app/Contents/MacOS/coracle
trap '"$coracle" logs -n 80 || true; "$coracle" delete --force || true; rm -rf "$work"' EXIT
share=$work/share
mkdir "$share"
echo shared > "$share/file"
"$coracle" settings set shares "$share"
"$coracle" start
docker() { command docker --host "unix://$CORACLE_HOME/run/docker.sock" "$@"; }
[ "$(docker run --rm coracle/welcome busybox uname -s)" = Linux ]
[ "$(docker run --rm -v "$share:/x" coracle/welcome busybox cat /x/file)" = shared ]
docker run --detach --name web --publish 127.0.0.1::80 coracle/welcome
curl --fail --silent --retry 20 --retry-all-errors --retry-delay 1 "http://$(docker port web 80/tcp)/" | grep -q container
# The window: it stays open, and closes when it is told to.
"$app/Contents/MacOS/coracle-desktop" &
window=$!
sleep 5
kill -0 "$window"
"$app/Contents/MacOS/coracle-desktop" --quit
wait "$window"
# The daemon dies, the machine doesn't.
kill -9 "$(cat "$CORACLE_HOME/run/daemon.pid")"
"$coracle" start
docker ps --quiet | grep -q .
"$coracle" stop
! pgrep -f "$CORACLE_HOME/machine/rest.sock"
# The same tests of the machine as on Linux, on this vfkit instead of its double. Each has a home of its own.
cd "$(dirname "$0")/../.."
CORACLE_TEST_MACHINE=1 CORACLE_TEST_VFKIT="$app/Contents/MacOS/vfkit" cargo test --locked --package cli
