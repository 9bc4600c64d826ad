#!/usr/bin/env bash
# Fails when a built file wants a newer glibc than promised, or another library.
# usage: tools/dist/check.sh FOLDER GLIBC
set -euo pipefail
folder=${1:?usage: tools/dist/check.sh FOLDER GLIBC}
most=${2:?usage: tools/dist/check.sh FOLDER GLIBC}
"$folder/bin/heddle" version | head -1
for f in "$folder/bin/heddle" "$folder/lib/heddle/libheddle.so"; do
  newest=$(objdump -T "$f" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -1 | cut -d_ -f2)
  if [ "$(printf '%s\n%s\n' "$newest" "$most" | sort -V | tail -1)" != "$most" ]; then
    echo "$f wants glibc $newest, promised is $most: objdump -T $f | grep GLIBC_$newest" >&2
    exit 1
  fi
  foreign=$(objdump -p "$f" | awk '/NEEDED/ {print $2}' | grep -vE '^(libc\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|libm\.so\.6|libresolv\.so\.2|ld-linux-x86-64\.so\.2)$' || true)
  if [ -n "$foreign" ]; then
    echo "$f needs $foreign; expected nothing but libc" >&2
    exit 1
  fi
  echo "$f: glibc $newest or later, $(stat -c %s "$f") bytes"
done
