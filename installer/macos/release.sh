#!/bin/sh
# Signs, notarises and staples the application in FROM/Coracle-*.zip, and packs it anew into TO. Runs on a Mac.
#   release.sh FROM TO
# Wants APPLE_CERTIFICATE (.p12, base64), APPLE_CERTIFICATE_PASSWORD, APPLE_ID, APPLE_TEAM_ID, APPLE_PASSWORD.
set -eu
from=$1
to=$2
here=$(cd "$(dirname "$0")" && pwd)
for name in APPLE_CERTIFICATE APPLE_CERTIFICATE_PASSWORD APPLE_ID APPLE_TEAM_ID APPLE_PASSWORD; do
    eval "value=\${$name:-}"
    [ -n "$value" ] || { echo "$name is not set: nothing is released for macOS" >&2; exit 1; }
done
zip=$(ls "$from"/Coracle-*.zip)
name=$(basename "$zip" .zip)
work=$(mktemp -d)
keychain=$work/release.keychain-db
trap 'security delete-keychain "$keychain" 2>/dev/null || true; rm -rf "$work"' EXIT

# A keychain of its own, which goes with this script.
password=$(openssl rand -hex 16)
printf %s "$APPLE_CERTIFICATE" | base64 --decode > "$work/certificate.p12"
security create-keychain -p "$password" "$keychain"
security set-keychain-settings -lut 3600 "$keychain"
security unlock-keychain -p "$password" "$keychain"
security import "$work/certificate.p12" -k "$keychain" -P "$APPLE_CERTIFICATE_PASSWORD" -T /usr/bin/codesign
security set-key-partition-list -S apple-tool:,apple: -s -k "$password" "$keychain" > /dev/null
security list-keychains -d user -s "$keychain" "$(security default-keychain -d user | tr -d ' "')"
identity=$(security find-identity -v -p codesigning "$keychain" | awk '/Developer ID Application/ { print $2; exit }')
[ -n "$identity" ] || { echo "the certificate is no Developer ID Application" >&2; exit 1; }

ditto -x -k "$zip" "$work"
app=$work/Coracle.app
sign() { codesign --force --timestamp --options runtime --sign "$identity" --keychain "$keychain" "$@"; }
# From the inside out; vfkit keeps what macOS wants of programs that make machines.
sign --entitlements "$here/vfkit.entitlements" "$app/Contents/MacOS/vfkit"
for name in coracle docker-compose docker-buildx; do
    [ ! -f "$app/Contents/MacOS/$name" ] || sign "$app/Contents/MacOS/$name"
done
sign "$app"
codesign --verify --deep --strict --verbose=2 "$app"

notary() { xcrun notarytool "$@" --apple-id "$APPLE_ID" --team-id "$APPLE_TEAM_ID" --password "$APPLE_PASSWORD"; }
# Apple's answer counts, not the program's code, which need not tell a refusal. Why it refused is in a log of Apple's.
approve() {
    notary submit "$1" --wait --output-format plist > "$work/answer.plist" || true
    [ "$(plutil -extract status raw "$work/answer.plist")" != Accepted ] || return 0
    cat "$work/answer.plist" >&2
    notary log "$(plutil -extract id raw "$work/answer.plist")" >&2
    echo "Apple did not approve $1" >&2
    exit 1
}
ditto -c -k --keepParent "$app" "$work/submit.zip"
approve "$work/submit.zip"
xcrun stapler staple "$app"

mkdir -p "$to"
ditto -c -k --keepParent "$app" "$to/$name.zip"
mkdir "$work/image"
mv "$app" "$work/image/"
ln -s /Applications "$work/image/Applications"
cp "$here/Read Me.txt" "$work/image/"
# By LZMA, which every macOS opens that runs the application: a quarter less to download.
hdiutil create -quiet -volname Coracle -srcfolder "$work/image" -format ULMO "$to/$name.dmg"
sign "$to/$name.dmg"
approve "$to/$name.dmg"
xcrun stapler staple "$to/$name.dmg"
cp "$from"/coracle-*.cdx.json "$to/"
(cd "$to" && shasum -a 256 ./* > SHA256SUMS)
