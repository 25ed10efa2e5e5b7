#!/usr/bin/env bash
# Run pytest on an emulated Arm processor: tests/arm/run.sh [PYTEST ARGUMENTS]   (default: tests/golden)
#
# EDGELLM_QEMU_CPU (default cortex-a76, the Raspberry Pi 5's) chooses the processor. LLVM cannot see it
# under qemu and compiles for "generic"; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES pass through.
# qemu on x86 keeps x86's strong memory order, so a missing acquire or release does not show here.
set -euo pipefail
shopt -s extglob

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
arm=$repo/build/arm
cpu=${EDGELLM_QEMU_CPU:-cortex-a76}
[[ -e $arm/rootfs/stamp ]] || { echo "run tests/arm/setup_rootfs.sh first" >&2; exit 1; }

# The packages as an installed edgellm shows them (pyproject.toml maps the folders), as links, so that
# edits need no reinstall. Renewed each time for new files; dangling links are of removed ones.
# The egg-info of the editable install, where there is one, answers importlib.metadata.
mkdir -p "$arm/src/edgellm"
ln -sfn "$repo"/edgellm/!(__pycache__) "$repo"/{exporters,runtime,devices} "$arm/src/edgellm/"
for info in "$repo"/*.egg-info; do
  if [[ -e $info ]]; then ln -sfn "$info" "$arm/src/"; fi
done
find "$arm/src" -xtype l -delete

export PYTHONPATH=$arm/src PYTHONSAFEPATH=1 # safe path: the folder ./edgellm alone must not shadow the link tree
export XDG_CACHE_HOME=$arm/cache            # compiled kernels; their names tell processors apart
export EDGELLM_QEMU_CPU=$cpu
export NUMBA_CACHE_DIR=$XDG_CACHE_HOME/numba HYPOTHESIS_STORAGE_DIRECTORY=$XDG_CACHE_HOME/hypothesis
mkdir -p "$XDG_CACHE_HOME"

[[ $# -gt 0 ]] || set -- tests/golden
cd "$repo"
# "python -m pytest" with edgellm imported first: pytest puts folders of tests before PYTHONPATH.
exec "$arm/rootfs/venv/bin/python" -c 'import sys, edgellm, pytest; sys.exit(pytest.main(sys.argv[1:]))' \
  -o "cache_dir=$XDG_CACHE_HOME/pytest" "$@"
