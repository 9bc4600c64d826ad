#!/usr/bin/env bash
# Installs the Debian packages that builds and tests use and that are missing here.
# With arguments: only those programs. Prints nothing when all are there.
set -euo pipefail

declare -A package=([cmake]=cmake [valgrind]=valgrind [gcc]=gcc [g++]=g++ [python3]=python3 [make]=make [strace]=strace [chromium-headless-shell]=chromium-headless-shell)
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(gcc cmake valgrind python3 strace chromium-headless-shell)

missing=()
for program in "${wanted[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${package[$program]:?tools/deps/packages.sh: no package is known for '$program'; add it to the table}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "tools/deps/packages.sh: missing ${missing[*]}; as root: apt-get install ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
command -v apt-get >/dev/null || { echo "tools/deps/packages.sh: missing ${missing[*]}, and this is not Debian: install them and run again" >&2; exit 1; }
echo "installing ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
