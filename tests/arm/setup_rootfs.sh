#!/usr/bin/env bash
# Make build/arm/rootfs: Debian 12's arm64 Python 3.11 with PyPI's aarch64 wheels, for tests/arm/run.sh.
#
#   tests/arm/setup_rootfs.sh [PYTHON]     PYTHON (default .venv/bin/python) decides the versions
#
# The packages are unpacked, never configured, and run by qemu with -L: that needs neither binfmt_misc,
# nor chroot, nor mounts, so it also works in a container. Root (or sudo) is used for one thing only,
# to install qemu when it is missing. A finished tree is recognised by its stamp and left alone.
#
# EDGELLM_DEBIAN_MIRROR: a Debian mirror; needed only where apt has none of its own (Ubuntu).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$repo/.venv/bin/python}
rootfs=$repo/build/arm/rootfs

# bookworm, because its Python 3.11 and glibc 2.36 are those of Raspberry Pi OS 12.
suite=bookworm
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
debs=(python3.11-minimal libpython3.11-stdlib libstdc++6)

# What the tests import. No onnxruntime: it ends with a segmentation fault under qemu, at import.
wheels=(numpy numba tokenizers safetensors jinja2 tqdm onnx pytest hypothesis)

as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }
fail() { echo "setup_rootfs: $*" >&2; exit 1; }

# "name==version" of the wheels and of what they require, as installed beside PYTHON.
# huggingface_hub is cut off: tokenizers asks for it, but only to download, and it brings ten packages.
pinned_versions() {
  "$python" - "$@" <<'PYTHON'
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

pins = {"huggingface-hub": None}


def visit(name, required):
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in pins:
        return
    try:
        pins[key] = version(key)
    except PackageNotFoundError:  # a dependency of another platform or Python, unless it is one of ours
        if required:
            sys.exit(f"setup_rootfs: {name} is not installed beside {sys.executable}")
        return
    for line in requires(key) or ():
        if "extra ==" not in line:
            visit(re.match(r"[\w.-]+", line)[0], required=False)


for root in sys.argv[1:]:
    visit(root, required=True)
print("\n".join(sorted(f"{key}=={pin}" for key, pin in pins.items() if pin)))
PYTHON
}

install_tools() {
  local missing=()
  command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
  [[ -e $keyring ]] || missing+=(debian-archive-keyring)
  [[ ${#missing[@]} -eq 0 ]] && return
  as_root apt-get update -q || true # some unrelated source may be down; installing shows what matters
  # No recommends: they would bring binfmt support, which changes the machine and is not used here.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

# The mirror that this machine's own apt uses, whatever its suite: every one of them carries bookworm too.
# Security and third-party archives are told apart by their Release files.
debian_mirror() {
  local mirror=${EDGELLM_DEBIAN_MIRROR:-}
  [[ -n $mirror ]] || mirror=$(apt-get indextargets --format "\$(ORIGIN)|\$(LABEL)|\$(REPO_URI)" |
    awk -F'|' '$1 == "Debian" && $2 == "Debian" && !found { print $3; found = 1 }')
  [[ -n $mirror ]] || fail "apt knows no Debian mirror here: run apt-get update, or set EDGELLM_DEBIAN_MIRROR"
  echo "$mirror"
}

# A private apt, for arm64 and with nothing installed: it finds the closure of the packages and checks
# signatures, and the machine's own architectures, sources and package lists stay as they are.
# (The sandbox user _apt may not be able to enter the repository's directory, hence root.)
unpack_debs() {
  local target=$1 apt=$1.apt mirror deb
  mirror=$(debian_mirror)
  mkdir -p "$apt"/{lists,cache}/partial "$apt/cache/archives/partial"
  : >"$apt/status"
  echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/sources.list"
  local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Languages=none
    -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install -y --download-only --no-install-recommends "${debs[@]}"
  for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb --extract "$deb" "$target"
  done
  rm -rf "$apt"
}

# A virtual environment whose python is this wrapper. sys.executable names the wrapper, so a test that
# starts sys.executable works without binfmt_misc; and site looks nowhere else, not into the host's packages.
make_venv() {
  local venv=$1/venv
  mkdir -p "$venv/bin" "$venv/lib/python3.11/site-packages"
  printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' >"$venv/pyvenv.cfg"
  cat >"$venv/bin/python" <<'WRAPPER'
#!/bin/sh
venv=$(dirname "$(dirname "$(readlink -f "$0")")")
exec qemu-aarch64-static -cpu "${EDGELLM_QEMU_CPU:-cortex-a76}" -L "$venv/.." \
  -0 "$venv/bin/python" "$venv/../usr/bin/python3.11" "$@"
WRAPPER
  chmod +x "$venv/bin/python"
}

install_wheels() {
  local target=$1 host=$python platforms=() minor
  "$host" -m pip --version >/dev/null 2>&1 || host=python3 # environments made by uv have no pip
  # pip takes the tags literally, so name every glibc from the oldest wheels' to bookworm's.
  for minor in {36..17}; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
  xargs "$host" -m pip install -qq --no-deps --only-binary=:all: --implementation cp \
    --python-version 3.11 "${platforms[@]}" --platform manylinux2014_aarch64 \
    --target "$target/venv/lib/python3.11/site-packages"
  # Byte code is the same on every processor, and compiling it under qemu is slow.
  if "$host" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    "$host" -m compileall -qq "$target/usr/lib/python3.11" || true
  fi
}

[[ -x $python ]] || fail "no python at $python (make the environment first, or name another)"
pins=$(pinned_versions "${wheels[@]}")
stamp=$(printf '%s\n' "$pins" | cat "${BASH_SOURCE[0]}" - | sha256sum)
mkdir -p "$repo/build/arm"
exec 9>"$repo/build/arm/lock"
flock 9 # a second run waits here, then finds the first one's work
[[ -e $rootfs/stamp && $(<"$rootfs/stamp") == "$stamp" ]] && exit 0

# Made aside and renamed at the end: what an interrupted run left behind is never taken for finished.
work=$rootfs.new
rm -rf "$work" "$work.apt"
mkdir "$work"
install_tools
unpack_debs "$work"
make_venv "$work"
install_wheels "$work" <<<"$pins"
"$work/venv/bin/python" -I -c 'import sys; [__import__(name) for name in sys.argv[1:]]' "${wheels[@]}"
echo "$stamp" >"$work/stamp"
rm -rf "$rootfs"
mv "$work" "$rootfs"
