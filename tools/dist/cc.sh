#!/usr/bin/env bash
# A C compiler for cgo and CMake that links against glibc 2.31: zig cc, with one
# addition. go-nvml leaves NVML's functions undefined until the driver's library
# is loaded, by --unresolved-symbols, which zig's driver does not take and its
# linker does: so that one link is done by hand, with the command zig would use.
set -euo pipefail
zig=${HEDDLE_ZIG:?path of the zig program}
target=x86_64-linux-gnu.2.31

args=() unresolved=()
for a in "$@"; do
  case $a in
    -Wl,--unresolved-symbols=*) unresolved=("${a#-Wl,}") ;;
    *) args+=("$a") ;;
  esac
done
if [ ${#unresolved[@]} -eq 0 ]; then
  exec "$zig" cc -target "$target" "${args[@]}"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ZIG_VERBOSE_LINK=1 "$zig" cc -target "$target" "${args[@]}" 2>"$log" || true # fails for want of NVML, having said how it links
command=$(grep -m1 -E '^(.*/)?(ld\.lld|lld) ' "$log") || { cat "$log" >&2; exit 1; }
read -ra words <<<"$command"
# lazy: the functions are there only after the driver's library was loaded.
exec "$zig" ld.lld "${words[@]:1}" -z lazy "${unresolved[@]}"
