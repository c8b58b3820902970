#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Install what building, running and testing headroom needs, where that is missing. `make deps` calls it every time, so
# when nothing is missing it must cost next to nothing: one look into dpkg's list, no network.
set -euo pipefail
export LC_ALL=C

readonly ME=${0##*/}
readonly EX_USAGE=2 EX_NEED=3
readonly APT_S=1800 # for each of update and install

# Debian 12 and 13. "a|b": one of them is enough, and the first that this release has is installed.
readonly BENCH=(gcc make 'pkgconf|pkg-config' libc6-dev git
	libdevmapper-dev libblkid-dev libmount-dev libjansson-dev libinih-dev libkmod-dev libcgroup-dev cgroup-tools liburing-dev
	libtracefs-dev libtraceevent-dev
	qemu-system-x86 seabios fio stress-ng e2fsprogs cpio kmod xz-utils zstd busybox-static
	python3 python3-jinja2 python3-plotly python3-numpy python3-scipy
	ca-certificates debian-archive-keyring)
readonly TEST=(libcmocka-dev python3-pytest chromium chromium-driver python3-selenium clang-format cppcheck shellcheck
	qemu-utils libnbd-bin)
# The recorder's peers; one that is not there is left out of the table. Debian enables the daemon of atop with the package.
readonly BENCH_RECORDER=(sysstat atop procps strace)
# The engine's peers; likewise. The allocators are loaded in front of libc's, so their libraries are enough.
readonly BENCH_ENGINE=(qemu-utils nbdkit libnbd-bin 'libjemalloc2|libjemalloc-dev' 'libtcmalloc-minimal4t64|libtcmalloc-minimal4'
	'libmimalloc3|libmimalloc2.0')
# The NBD server's peers, likewise, and what its client is built with. Debian starts nbd-server with the package, which
# ends at once: it has nothing to serve as long as nobody configures it. qemu-storage-daemon is in qemu-system-common.
readonly BENCH_SERVE=(libnbd-dev fio qemu-utils qemu-system-common nbdkit nbd-server)
# libFuzzer; its runtime is a package of its own, named after clang's version.
readonly FUZZ=(make clang 'libclang-rt-14-dev|libclang-rt-19-dev')
# Building `--kernel debug`. Not among what `make bench` and `make test` install: neither builds one.
readonly DEBUG_KERNEL=(gcc make libc6-dev flex bison bc perl libelf-dev libssl-dev cpio xz-utils kmod)

# The same for other distributions, by what can be seen: programs ("a|b" as above), pkg-config and Python modules.
readonly BENCH_PROGRAMS=('gcc|cc' make pkg-config git qemu-system-x86_64 fio stress-ng cgcreate cgdelete mke2fs cpio gzip depmod xz zstd busybox
	flock ldd python3)
readonly BENCH_PKGCONFIG=(devmapper blkid mount jansson inih libkmod libcgroup liburing libtracefs libtraceevent)
readonly BENCH_PYTHON=(jinja2 plotly numpy scipy)
readonly BENCH_RECORDER_PROGRAMS=(sar atop vmstat slabtop strace)
readonly BENCH_ENGINE_PROGRAMS=(qemu-img nbdkit nbdcopy)
readonly BENCH_SERVE_PROGRAMS=(fio qemu-img qemu-storage-daemon nbdkit nbd-server)
readonly BENCH_SERVE_PKGCONFIG=(libnbd)
readonly TEST_PROGRAMS=('chromium|chromium-browser|google-chrome' chromedriver clang-format cppcheck shellcheck
	qemu-img nbdcopy nbdinfo)
readonly TEST_PKGCONFIG=(cmocka)
readonly TEST_PYTHON=(pytest selenium)
readonly FUZZ_PROGRAMS=(make clang)
readonly DEBUG_KERNEL_PROGRAMS=('gcc|cc' make flex bison bc perl cpio xz depmod)
readonly DEBUG_KERNEL_PKGCONFIG=(libelf libcrypto)

usage()
{
	cat <<-END
	usage: $ME [--for bench|test|bench-recorder|bench-engine|bench-serve|fuzz|debug-kernel] [--print]

	  --for bench            what building, running and reporting needs (default)
	  --for test             that, and what the tests need
	  --for bench-recorder   what building needs, and the peers that the recorder is measured against
	  --for bench-engine     what building needs, and the peers that the copy engine is measured against
	  --for bench-serve      what building needs, and the peers that the NBD server is measured against
	  --for fuzz             only what make fuzz needs
	  --for debug-kernel     only what building a kernel for --kernel debug needs
	  --print                print what is missing, one a line, and change nothing

	On Debian missing packages are installed when this runs as root or sudo can be used; elsewhere they are named.
	Exit status: 0 nothing is missing (any more), 2 usage, 3 something is missing and could not be installed.
	END
}

say() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

FOR=bench PRINT=''
while [ $# -gt 0 ]; do
	case $1 in
	--for)
		[ $# -ge 2 ] || die $EX_USAGE "--for needs bench, test, bench-recorder, bench-engine, bench-serve, fuzz or debug-kernel (--help)"
		FOR=$2
		shift
		;;
	--print) PRINT=1 ;;
	--help | -h) usage; exit 0 ;;
	*) die $EX_USAGE "unknown argument $1 (--help)" ;;
	esac
	shift
done
case $FOR in
bench) PACKAGES=("${BENCH[@]}") ;;
test) PACKAGES=("${BENCH[@]}" "${TEST[@]}") ;;
bench-recorder) PACKAGES=("${BENCH[@]}" "${BENCH_RECORDER[@]}") ;;
bench-engine) PACKAGES=("${BENCH[@]}" "${BENCH_ENGINE[@]}") ;;
bench-serve) PACKAGES=("${BENCH[@]}" "${BENCH_SERVE[@]}") ;;
fuzz) PACKAGES=("${FUZZ[@]}") ;;
debug-kernel) PACKAGES=("${DEBUG_KERNEL[@]}") ;;
*) die $EX_USAGE "--for takes bench, test, bench-recorder, bench-engine, bench-serve, fuzz or debug-kernel, not '$FOR' (--help)" ;;
esac

# --- another distribution ---------------------------------------------------------------------------------------------

elsewhere()
{
	local programs=("${BENCH_PROGRAMS[@]}") libraries=("${BENCH_PKGCONFIG[@]}") modules=("${BENCH_PYTHON[@]}")
	local missing=() alternatives entry name found python=${PYTHON:-/usr/bin/python3}
	PATH=$PATH:/usr/sbin:/sbin
	if [ "$FOR" = test ]; then
		programs+=("${TEST_PROGRAMS[@]}")
		libraries+=("${TEST_PKGCONFIG[@]}")
		modules+=("${TEST_PYTHON[@]}")
	elif [ "$FOR" = fuzz ]; then
		programs=("${FUZZ_PROGRAMS[@]}")
		libraries=()
		modules=()
	elif [ "$FOR" = debug-kernel ]; then
		programs=("${DEBUG_KERNEL_PROGRAMS[@]}")
		libraries=("${DEBUG_KERNEL_PKGCONFIG[@]}")
		modules=()
	fi
	[ "$FOR" != bench-recorder ] || programs+=("${BENCH_RECORDER_PROGRAMS[@]}")
	[ "$FOR" != bench-engine ] || programs+=("${BENCH_ENGINE_PROGRAMS[@]}")
	if [ "$FOR" = bench-serve ]; then
		programs+=("${BENCH_SERVE_PROGRAMS[@]}")
		libraries+=("${BENCH_SERVE_PKGCONFIG[@]}")
	fi
	for entry in "${programs[@]}"; do
		found=''
		IFS='|' read -ra alternatives <<<"$entry"
		for name in "${alternatives[@]}"; do
			if command -v "$name" >/dev/null; then found=1; fi
		done
		[ -n "$found" ] || missing+=("program ${alternatives[0]}")
	done
	for name in "${libraries[@]}"; do
		pkg-config --exists "$name" 2>/dev/null || missing+=("library $name (pkg-config)")
	done
	for name in ${modules[@]+"${modules[@]}"}; do
		# Not imported: that alone would take seconds.
		"$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec(sys.argv[1]))' "$name" 2>/dev/null ||
			missing+=("Python module $name ($python)")
	done
	[ "${#missing[@]}" -gt 0 ] || return 0
	if [ -n "$PRINT" ]; then
		printf '%s\n' "${missing[@]}"
		exit $EX_NEED
	fi
	printf -v name ', %s' "${missing[@]}"
	die $EX_NEED "this is not Debian, so install by hand: ${name#, }"
}

# shellcheck source=/dev/null
DISTRIBUTION=$(. /etc/os-release 2>/dev/null && printf '%s' "${ID:-}") || DISTRIBUTION=''
if [ "$DISTRIBUTION" != debian ] || ! command -v dpkg-query >/dev/null; then
	elsewhere
	exit 0
fi

# --- Debian -----------------------------------------------------------------------------------------------------------

# Sets MISSING to the entries of PACKAGES of which nothing is installed.
find_missing()
{
	local entry name names=() alternatives have
	for entry in "${PACKAGES[@]}"; do
		IFS='|' read -ra alternatives <<<"$entry"
		names+=("${alternatives[@]}")
	done
	# It fails when it does not know one of them, and lists the others.
	have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${names[@]}" 2>/dev/null | sed -n 's/^installed //p') || true
	have=" ${have//$'\n'/ } "
	MISSING=()
	for entry in "${PACKAGES[@]}"; do
		IFS='|' read -ra alternatives <<<"$entry"
		for name in "${alternatives[@]}"; do
			if [[ $have == *" $name "* ]]; then continue 2; fi
		done
		MISSING+=("$entry")
	done
}

find_missing
[ "${#MISSING[@]}" -gt 0 ] || exit 0
if [ -n "$PRINT" ]; then
	printf '%s\n' "${MISSING[@]%%|*}"
	exit $EX_NEED
fi

APT=(env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30
	-o Acquire::Retries=2 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
ROOT=()
if [ "$(id -u)" -ne 0 ]; then
	command="apt-get update && apt-get install -y --no-install-recommends ${MISSING[*]%%|*}"
	if ! command -v sudo >/dev/null; then
		die $EX_NEED "${#MISSING[@]} packages are missing; type: su -c '$command'"
	fi
	# Without a terminal sudo could not ask for the password.
	if ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && [ -t 2 ]; }; then
		die $EX_NEED "${#MISSING[@]} packages are missing; type: sudo sh -c '$command'"
	fi
	ROOT=(sudo)
fi

say "installing ${MISSING[*]%%|*}"
# Not captured: it can take minutes, and sudo may ask. stdout stays free of it.
timeout --foreground -k 30 $APT_S ${ROOT[@]+"${ROOT[@]}"} "${APT[@]}" -q update >&2 ||
	say "apt-get update failed; going on with the package lists that are there"
NAMES=() UNKNOWN=()
for entry in "${MISSING[@]}"; do
	IFS='|' read -ra alternatives <<<"$entry"
	found=''
	for name in "${alternatives[@]}"; do
		if [ -z "$found" ] && [ -n "$(apt-cache madison "$name" 2>/dev/null)" ]; then found=$name; fi
	done
	if [ -n "$found" ]; then NAMES+=("$found"); else UNKNOWN+=("$entry"); fi
done
[ "${#UNKNOWN[@]}" -eq 0 ] || die $EX_NEED "apt does not know ${UNKNOWN[*]}: no network, or a package source is missing"
timeout --foreground -k 30 $APT_S ${ROOT[@]+"${ROOT[@]}"} "${APT[@]}" -q -y --no-install-recommends install "${NAMES[@]}" >&2 ||
	die $EX_NEED "apt-get could not install ${NAMES[*]}: its own words are above"
find_missing
[ "${#MISSING[@]}" -eq 0 ] || die $EX_NEED "still missing after the installation: ${MISSING[*]}"
