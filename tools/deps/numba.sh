#!/usr/bin/env bash
# Makes .deps/numba: a Python environment with numba-cuda (PyPI wheels, pinned),
# which tools/e2e runs natively and under Heddle. nvJitLink stays out: without it
# numba hands its PTX to the driver (cuLinkAddData, cuModuleLoadDataEx), and PTX is
# what the software GPU runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$PWD/.deps/numba

wheels=(
  numba-cuda==0.30.4 numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6 packaging==26.3
  cuda-bindings==13.5.0 cuda-core==1.2.2 cuda-pathfinder==1.9.0
  nvidia-nvvm==13.0.88 nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96
)

# The interpreter is part of what was made: wheels belong to one version of Python.
want="$(python3 -c 'import sys; print(sys.executable, sys.version)') ${wheels[*]}"
[ -f "$dir/.stamp" ] && [ "$(cat "$dir/.stamp")" = "$want" ] && exit 0
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "tools/deps/numba.sh: numba-cuda needs Python 3.11 or newer, python3 here is $(python3 --version)" >&2
  exit 1
}
echo "fetching ${wheels[*]}" >&2
rm -rf "$dir"
# Without pip: Debian keeps ensurepip in a package of its own, and pip can serve another interpreter.
python3 -m venv --without-pip "$dir"
python3 -m pip --python "$dir/bin/python" install -q --disable-pip-version-check --no-deps --only-binary=:all: "${wheels[@]}"
"$dir/bin/python" -c 'import numba, numba_cuda' || { echo "tools/deps/numba.sh: what was installed does not import; remove $dir and run again" >&2; exit 1; }
printf '%s' "$want" >"$dir/.stamp"
