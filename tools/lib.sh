# Shared by ./demo, ./test, ./bench and tools/check: packages, configure, build. Source it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
jobs=${DEFIB_JOBS:-$(nproc)}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf 'try: %s\n' "$2" >&2
  exit 2
}

# need_packages GROUP... : installs what is missing of packages.txt's groups.
need_packages() {
  local wanted missing=()
  wanted=$(for group in "$@"; do awk -v g="$group" '$1 == g { print $2 }' packages.txt; done)
  local have
  # It fails where it does not know one of the names: that package is missing.
  have=$({ dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' $wanted 2>/dev/null || true; } |
         awk '/^ii/ { print $2 }')
  for package in $wanted; do
    grep -qx -- "$package" <<<"$have" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || die "these packages are missing: ${missing[*]}" \
    "install them with your system's package manager"
  local sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "these packages are missing: ${missing[*]}" \
      "run as root: apt-get install ${missing[*]}"
    sudo=sudo
  fi
  say "installing ${missing[*]}"
  # Packages of servers must not start them: the tests start their own.
  local policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null && $sudo chmod +x $policy
    made=yes
  fi
  local failed=no
  { $sudo apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "${missing[@]}" >/dev/null; } || failed=yes
  [ $made = no ] || $sudo rm -f $policy
  [ $failed = no ] || die "the packages could not be installed" \
    "look at apt-get's message above; the list is in packages.txt"
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  if [ ! -f "build/$preset/build.ninja" ]; then
    say "configuring build/$preset"
    cmake --preset "$preset" >"/dev/null" || die "cmake failed for the preset '$preset'"
  fi
  if ! ninja -C "build/$preset" -n "$@" 2>/dev/null | grep -q 'no work to do'; then
    say "building build/$preset (the first time takes some minutes)"
  fi
  # Compilers of this project need up to 1 GB each.
  ninja -C "build/$preset" -j "$jobs" --quiet "$@" || die "the build of '$preset' failed"
}
