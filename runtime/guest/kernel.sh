#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Find a kernel for the guest, fetch and unpack it where needed, and say where its parts lie.
#
# Nothing is installed and root is not needed: a Debian package is downloaded by apt, which checks the signatures, and
# unpacked below the cache. Kernels of other Debian releases come through an apt state of our own, so the machine's
# sources and lists stay as they are. A kernel appears in the cache by one rename; whatever a killed run left behind is
# swept by the next one, under the lock. A debug kernel is built here from Debian's source, under a lock of its own: for
# the minutes that it takes, others can go on fetching.
set -euo pipefail
export LC_ALL=C

readonly ME=${0##*/}
readonly EX_USAGE=2 EX_NEED=3 EX_FAIL=4
readonly KEYRINGS=(/usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp)
# Releases that are searched after the machine's own, and the kernel each of them is known for: a hint for the order of
# the search only. "new" is what has no fixed version.
readonly SUITES=(bullseye:5.10 bookworm:6.1 bookworm-backports:6.12 trixie:6.12 sid:new trixie-backports:new)
readonly LISTS_FRESH_MIN=360 # package lists younger than this are not asked for again
readonly UPDATE_S=240 DOWNLOAD_S=900 LOCK_S=1800

HERE=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
readonly HERE DEPS=$HERE/../../tools/deps.sh
readonly DEBUG_SPEC='^debug(:([0-9]+\.[0-9]+))?(\+lockdep)?$'
readonly UNPACK_S=900 BUILD_S=2700 # 13 s and 10 minutes on two cores; a laptop on battery may need three times that
readonly PROGRESS_S=5
# Not unpacked, more than half of the files: none of it is read for a build with debug.config (the .cmd files that make
# leaves name all that was). The Kconfig files have to be there, those of other architectures too.
readonly NOT_UNPACKED=('arch/[!x]*/*.[chS]' 'arch/[!x]*/*.dts*' 'Documentation/*/*' 'drivers/gpu/*.[ch]'
	'drivers/infiniband/*.[ch]' 'drivers/media/*.[ch]' 'drivers/net/*/*.[ch]' 'drivers/scsi/*.[ch]'
	'drivers/staging/*.[ch]' 'drivers/usb/*.[ch]' 'sound/*.[ch]' 'tools/perf/*' 'tools/testing/*')
readonly BUILD_MIB=1500   # what is unpacked of 6.1 and what becomes of it: 1000, with room for later ones
readonly BUILD_STEPS=2200 # lines that make prints for 6.1 with debug.config: for "how far" only

usage()
{
	cat <<-END
	usage: $ME --cache DIR SPEC [--modules ROOT] [--refresh]
	       $ME --cache DIR --list

	SPEC is one of
	  default        the Debian kernel of the running release, or the newest in /boot
	  VERSION        a version or its beginning (5.10, 6.1, 6.12, 6.1.0-42-amd64): the newest Debian kernel that fits
	  debug          built here, once, from the running release's linux-source and debug.config: it reports stalled
	                 workqueues by itself. debug:6.12 is another release's; debug+lockdep, debug:6.12+lockdep also checks
	                 locks and can make allocations fail, at the price of another timing
	  PATH           a bzImage; modules from --modules ROOT, the tree it lies in, /lib/modules, or none (all built in)

	Prints version=, vmlinuz=, vmlinux= (the same without its compression, if a guest can be started from that; else
	empty), modules= (ROOT of ROOT/lib/modules/VERSION; empty: none), source= and config=.
	  --refresh      look for a newer kernel although the cache has an answer
	  --list         what the cache holds and which SPECs are known, parted by tabs

	HEADROOM_MIRROR=URI names a Debian mirror on a machine whose apt has none.
	Exit status: 0 found, 2 usage, 3 a need is not met (said in one line), 4 own failure.
	END
}

say() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

# --- a bzImage's own header (Documentation/arch/x86/boot.rst) ---------------------------------------------------------

# Little-endian unsigned number of $3 bytes at offset $2 of file $1.
header_uint()
{
	local bytes byte value=0 shift=0
	bytes=$(od -An -v -tu1 -j "$2" -N "$3" -- "$1") || return 1
	for byte in $bytes; do
		value=$((value + (byte << shift)))
		shift=$((shift + 8))
	done
	printf '%d' "$value"
}

# Prints the version of bzImage $1.
bzimage_version()
{
	local file=$1 size magic sects syssize offset text
	[ -f "$file" ] || die $EX_NEED "no such kernel: $file"
	[ -r "$file" ] || die $EX_NEED "cannot read kernel $file"
	size=$(stat -Lc %s -- "$file")
	magic=''
	[ "$size" -lt $((0x210)) ] || magic=$(od -An -v -tx1 -j $((0x202)) -N 4 -- "$file" | tr -d ' \n')
	[ "$magic" = 48647253 ] || die $EX_NEED "not a bzImage: $file (no HdrS at 0x202; an x86 bzImage is needed)"
	sects=$(header_uint "$file" $((0x1f1)) 1)
	syssize=$(header_uint "$file" $((0x1f4)) 4)
	offset=$(header_uint "$file" $((0x20e)) 2)
	[ "$sects" -gt 0 ] || sects=4 # what the boot protocol makes of 0
	# The last paragraph may be short by its padding.
	[ "$size" -ge $(((sects + 1) * 512 + syssize * 16 - 15)) ] ||
		die $EX_NEED "truncated bzImage: $file ($size bytes, its header promises $(((sects + 1) * 512 + syssize * 16)))"
	[ "$offset" -gt 0 ] || die $EX_NEED "not a bzImage: $file (its header has no version)"
	text=$(dd if="$file" bs=1 skip=$((offset + 0x200)) count=200 status=none | tr '\0' '\n' | sed -n '1s/ .*//p;1q')
	# It becomes part of a path.
	[[ $text =~ ^[0-9]+\.[0-9]+[A-Za-z0-9._+~-]*$ ]] || die $EX_NEED "not a bzImage: $file (strange version '$text')"
	printf '%s\n' "$text"
}

# --- answers ----------------------------------------------------------------------------------------------------------

# Prints the path of the ELF file in bzImage $2 with configuration $3, unpacked once into directory $1; nothing where
# there is none that can be started, which is no error. Emulated, a guest takes 5 s to unpack its kernel, out of 10.
elf_of()
{
	local elf=$1/vmlinux tool start length
	# By its PVH entry, the one that QEMU knows in an ELF file.
	grep -qs '^CONFIG_PVH=y' -- "$3" || return 0
	if [ ! -f "$elf" ]; then
		start=$((($(header_uint "$2" $((0x1f1)) 1) + 1) * 512 + $(header_uint "$2" $((0x248)) 4)))
		length=$(header_uint "$2" $((0x24c)) 4)
		case $(od -An -v -tx1 -j $start -N 4 -- "$2" | tr -d ' \n') in
		fd377a58) tool=xz ;;
		28b52ffd) tool=zstd ;;
		1f8b*) tool=gzip ;;
		*) return 0 ;;
		esac
		command -v $tool >/dev/null || return 0
		# Behind the payload stands its size, which the tools take for garbage.
		tail -c +$((start + 1)) -- "$2" | head -c $((length - 4)) | $tool -dc >"$elf.$$" 2>/dev/null || true
		if [ "$(head -c 4 -- "$elf.$$" 2>/dev/null | tail -c 3)" != ELF ] ||
			[ "$(stat -c %s -- "$elf.$$")" != "$(header_uint "$2" $((start + length - 4)) 4)" ] ||
			! mv -f -- "$elf.$$" "$elf" 2>/dev/null; then
			rm -f -- "$elf.$$"
			return 0
		fi
	fi
	printf '%s' "$elf"
}

# Prints the answer for the kernel unpacked in $1.
print_cached()
{
	local key value vmlinuz='' config=''
	while IFS='=' read -r key value; do
		case $key in
		vmlinuz | config | modules) [ -z "$value" ] || value=$1/$value ;;
		fragments) continue ;;
		esac
		case $key in
		vmlinuz) vmlinuz=$value ;;
		config) config=$value ;;
		esac
		printf '%s=%s\n' "$key" "$value"
	done <"$1/complete"
	printf 'vmlinux=%s\n' "$(elf_of "$1" "$vmlinuz" "$config")"
}

# Prints the answer for a bzImage anywhere: $1 path, $2 root of its modules if the user gave one.
print_path()
{
	local file version root='' dir config='' candidate
	version=$(bzimage_version "$1")
	file=$(realpath -- "$1")
	if [ -n "$2" ]; then
		root=$(realpath -- "$2")
		[ -d "$root/lib/modules/$version" ] ||
			die $EX_NEED "no modules of $version: $root/lib/modules/$version does not exist"
	else
		# Every directory above it, / included: a kernel in ROOT/boot has them in ROOT/lib/modules.
		dir=$file
		while [ "$dir" != / ] && [ -z "$root" ]; do
			dir=$(dirname -- "$dir")
			[ ! -d "${dir%/}/lib/modules/$version" ] || root=$dir
		done
	fi
	# Beside the image, in the build tree (arch/x86/boot/bzImage), or with the modules.
	for candidate in "${file%/*}/config-$version" "${file%/*}/../../../.config" "${file%/*}/config" \
		"${root:+${root%/}/lib/modules/$version/config}"; do
		if [ -n "$candidate" ] && [ -f "$candidate" ] && [ -r "$candidate" ]; then
			config=$(realpath -- "$candidate")
			break
		fi
	done
	printf 'version=%s\nvmlinuz=%s\nvmlinux=\nmodules=%s\nsource=%s\nconfig=%s\n' "$version" "$file" "$root" "$file" "$config"
}

# The newest kernel in /boot that fits SPEC and has its modules here.
from_boot()
{
	local file version
	while read -r version; do
		file=/boot/vmlinuz-$version
		if spec_matches "$1" "$version" && [ -r "$file" ] && [ -d "/lib/modules/$version" ]; then
			say "taking $file, no Debian package could be had"
			print_path "$file" ''
			return 0
		fi
	done < <(find /boot -maxdepth 1 -name 'vmlinuz-*' -printf '%f\n' 2>/dev/null | sed 's/^vmlinuz-//' | sort -rV)
	return 1
}

# SPEC 6.1 is 6.1.0-42-amd64, and not 6.12. What was built here answers to its own SPEC and its full version only.
spec_matches()
{
	case $1/$2 in
	debug*) [[ $2 == *"-$FLAVOUR" ]] && { [ -z "$SERIES" ] || [[ $2 == "$SERIES".* ]]; } ;;
	*-headroom-*) [ "$1" = "$2" ] ;;
	*) [ "$1" = default ] || [ "$1" = "$2" ] || [[ $2 == "$1"[.+-]* ]] ;;
	esac
}

# Prints the directory of the newest complete kernel in the cache that fits.
cached_match()
{
	local dir version
	while read -r version; do
		dir=$KERNELS/$version
		if spec_matches "$1" "$version" && [ -f "$dir/complete" ]; then
			printf '%s\n' "$dir"
			return 0
		fi
	done < <(find "$KERNELS" -maxdepth 1 -mindepth 1 -type d -name '[0-9]*' -printf '%f\n' 2>/dev/null | sort -rV)
	return 1
}

list()
{
	local dir link entry
	for dir in "$KERNELS"/[0-9]*/; do
		[ -f "$dir/complete" ] || continue
		printf 'cached\t%s\t%s\n' "$(basename "$dir")" "$(sed -n 's/^source=//p' "$dir/complete")"
	done
	for link in "$KERNELS"/by-spec/*; do
		[[ -L $link && -f $link/complete ]] || continue
		printf 'resolved\t%s\t%s\n' "${link##*/}" "$(basename "$(readlink "$link")")"
	done
	printf 'known\tdefault\tthe Debian kernel of the running release (%s), else the newest in /boot\n' "$RUNNING"
	for entry in "${SUITES[@]}"; do
		case ${entry#*:} in
		new) printf 'known\tVERSION\twhatever %s has now\n' "${entry%%:*}" ;;
		*) printf 'known\t%s\t%s\n' "${entry#*:}" "${entry%%:*}" ;;
		esac
	done
	printf 'known\tdebug[:VERSION][+lockdep]\tbuilt here from linux-source, reports stalled workqueues; +lockdep checks locks too\n'
	printf 'known\tPATH\tany x86 bzImage\n'
}

# --- apt --------------------------------------------------------------------------------------------------------------

# Options for every call. The sandbox user could not reach a cache below a private home directory, and it is there to
# contain apt's downloaders, not to verify: what was downloaded is checked against the signed lists either way.
APT=(-o APT::Sandbox::User=root -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o Acquire::Retries=2
	-o Acquire::Languages=none -o APT::Get::AllowUnauthenticated=false -o Dpkg::Use-Pty=0)
STATE_APT=() # what makes the calls below use a state of ours; empty: the machine's

# The first reason that apt gave in log $1. It stands below the "Err:" line of the file concerned.
apt_reason() { sed -n -e '/^Err:/{n;s/^ *//p;q}' -e 's/^E: *//p' -- "$1" 2>/dev/null | sed -n 1p; }

# Was it the network, and not the mirror? Then another suite will not fare better.
no_network()
{
	[[ $WHY =~ (ould not (connect|resolve)|emporary failure|nable to connect|imed out|unreachable|onnection (refused|reset|failed)) ]]
}

# An apt configuration with the machine's network settings (proxies, certificates, retries) and nothing else: its hooks
# must not run on our lists, and its pins do not concern them.
private_config()
{
	[ ! -f "$WORK/apt.conf" ] || return 0
	(
		umask 077 # a proxy's password may be among it
		apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' >"$WORK/apt.conf" || true
		cat >>"$WORK/apt.conf" <<-END
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		END
	)
}

# Runs an apt program on the state chosen last.
apt_run()
{
	local program=$1
	shift
	if [ "${#STATE_APT[@]}" -gt 0 ]; then
		APT_CONFIG=$WORK/apt.conf "$program" "${APT[@]}" "${STATE_APT[@]}" "$@"
	else
		# With a cache even where the machine's is switched off, as in containers: each call would parse all lists again.
		"$program" "${APT[@]}" -o Dir::Cache="$WORK/apt-cache" -o Dir::Cache::pkgcache=pkgcache.bin "$@"
	fi
}

# Sets MIRROR and SECURITY from the machine's own sources, in either of apt's notations.
find_mirrors()
{
	local release origin uri rank best=0 best_security=0
	[ -z "${MIRROR+set}" ] || return 0
	MIRROR=${HEADROOM_MIRROR:-} SECURITY=
	[ -z "$MIRROR" ] || return 0
	while IFS='|' read -r release origin uri; do
		# Third parties name their suites after Debian's too; the signature would unmask them, but late.
		case $origin/$uri in
		Debian/*) rank=3 ;;
		/*debian*) rank=2 ;;
		/*) rank=1 ;;
		*) continue ;;
		esac
		case $uri in cdrom:*) continue ;; esac
		case $release in
		*-security | */updates)
			if [ $rank -gt $best_security ]; then SECURITY=$uri best_security=$rank; fi
			;;
		buster | bullseye | bookworm | trixie | forky | duke | sid | oldoldstable | oldstable | stable | testing | unstable)
			if [ $rank -gt $best ]; then MIRROR=$uri best=$rank; fi
			;;
		esac
	done < <(for info in '' --no-release-info; do
		# The second time for a machine that has no lists yet; it does not know the origins.
		apt-get indextargets $info --format "\$(RELEASE)|\$(ORIGIN)|\$(REPO_URI)" 'Created-By: Packages' 'Component: main' \
			2>/dev/null | sed 's/|[$](ORIGIN)|/||/' || true
	done)
}

# Chooses the private state of suite $1 and brings its lists up to date. False: not to be had; UNREACHED says so.
use_suite()
{
	local suite=$1 force=${2:-} state=$APTSTATE/$1 keyring='' file log=$WORK/update.log
	for file in "${KEYRINGS[@]}"; do
		[ ! -r "$file" ] || keyring=$file
	done
	[ -n "$keyring" ] || die $EX_NEED "Debian's keyring is missing: install debian-archive-keyring (or give a kernel by PATH)"
	find_mirrors
	[ -n "$MIRROR" ] || die $EX_NEED "no Debian mirror among this machine's apt sources: set HEADROOM_MIRROR=URI, or give a kernel by PATH"
	private_config
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' "$keyring" "$MIRROR" "$suite" >"$WORK/sources.list"
	case $suite in
	sid | *-backports) ;;
	*)
		[ -z "$SECURITY" ] ||
			printf 'deb [arch=amd64 signed-by=%s] %s %s-security main\n' "$keyring" "$SECURITY" "$suite" >>"$WORK/sources.list"
		;;
	esac
	STATE_APT=(-o Dir::Etc::sourcelist="$WORK/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$state"
		-o Dir::State::lists="$state/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$state/cache"
		-o Dir::Cache::srcpkgcache='')
	if [ -n "$force" ] || [ -z "$(find "$state/updated" -mmin -$LISTS_FRESH_MIN 2>/dev/null)" ]; then
		say "reading the package lists of $suite"
		timeout --foreground -k 10 $UPDATE_S env APT_CONFIG="$WORK/apt.conf" apt-get "${APT[@]}" "${STATE_APT[@]}" \
			-q update >"$log" 2>&1 || true
		# A missing -security suite is no failure, so the lists decide and not the status.
		if grep -qE '^(Err|E|W):' "$log"; then
			rm -f "$state/updated"
		else
			: >"$state/updated"
		fi
	fi
	for file in "$state/lists"/*_dists_"$suite"_main_binary-amd64_Packages*; do
		[ ! -f "$file" ] || return 0
	done
	UNREACHED+=("$suite")
	WHY=$(apt_reason "$log")
	return 1
}

# Prints the newest image package of the chosen state that fits SPEC $1, or the source package for a debug kernel.
find_package()
{
	local spec=$1 names name version suffix best=''
	if [ -n "$FLAVOUR" ]; then
		if [ -n "$SERIES" ]; then
			apt_run apt-cache pkgnames "linux-source-$SERIES" 2>/dev/null | grep -Fx "linux-source-$SERIES" || true
		else
			package_field linux-source Depends | dependencies | grep -m 1 '^linux-source-[0-9]' || true
		fi
		return 0
	fi
	if [ "$spec" = default ]; then
		# What the meta-package depends on.
		name=$(apt_run apt-cache show --no-all-versions linux-image-amd64 2>/dev/null |
			sed -n 's/^Depends: //p' | dependencies | grep -m 1 '^linux-image-[0-9]' || true)
		[ -z "$name" ] || printf '%s\n' "$name"
		return 0
	fi
	# The -amd64 flavour: no -cloud-amd64, no -rt-amd64, no meta-package (linux-image-6.12-amd64). An unsigned one only
	# when it is all there is.
	names=$(apt_run apt-cache pkgnames linux-image- 2>/dev/null |
		grep -E '^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^-]*(-[0-9][^-]*)?-amd64(-unsigned)?$' | sort -V) || true
	for suffix in '' -unsigned; do
		for name in $names; do
			version=${name#linux-image-}
			version=${version%-unsigned}
			if [ "$name" = "linux-image-$version$suffix" ] && spec_matches "$spec" "$version"; then best=$name; fi
		done
		if [ -n "$best" ]; then
			printf '%s\n' "$best"
			return 0
		fi
	done
}

# From a Depends field on stdin to one name a line.
dependencies() { sed -e 's/[,|]/\n/g' | sed -e 's/(.*//' -e 's/ //g'; }

# The field $2 of package $1 in the chosen state.
package_field() { apt_run apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n "s/^$2: //p" | head -n 1; }

# The suite that release $2 of package $1 comes from.
package_suite()
{
	local suite
	suite=$(apt_run apt-cache madison "$1" 2>/dev/null |
		awk -F '[|]' -v v="$2" '{ gsub(/ /, "", $2) } $2 == v { split($3, f, " "); sub(/\/.*/, "", f[2]); print f[2]; exit }')
	printf '%s\n' "${suite:-unknown}"
}

need_space() # for WHAT MIB
{
	[ "$(df --output=avail -m -- "$WORK" | tail -n 1)" -ge "$2" ] || die $EX_NEED "no space for $1: $2 MiB needed in $KERNELS"
}

# How far a long step is.
how_far()
{
	local steps
	case $1 in
	download) printf '  downloaded %s of %s MiB' "$(du -sm -- "$WORK/deb" | cut -f 1)" "$DOWNLOAD_MIB" ;;
	build)
		# The last thing that make began. The total is a guess for any source but 6.1's.
		steps=$(grep -c '^  [A-Z]' "$WORK/build.log") || true
		if [ "$steps" -lt "$BUILD_STEPS" ]; then steps+=" of about $BUILD_STEPS"; fi
		printf '  %s steps, %s' "$steps" "$(sed -n -e "s,$WORK/tree/,," -e '$s/^  [A-Z0-9]* *//p' "$WORK/build.log")"
		;;
	*) printf '  %s' "$1" ;;
	esac
}

# Runs a program for at most $1 s, its words in log $2, and tells every few seconds how far step $3 is. Both killing us and
# ending us ends the program and all that it started: it leads a process group of its own, to which timeout passes on
# the signal that it gets from us or, when we are gone, from the kernel. It inherits our locks, so nobody else begins
# before all of it is over.
attend()
{
	local limit=$1 log=$2 step=$3 start=$SECONDS nap ended status
	shift 3
	setpriv --pdeathsig TERM timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null &
	JOB=$!
	while true; do
		setpriv --pdeathsig KILL sleep $PROGRESS_S >/dev/null 2>&1 &
		nap=$!
		status=0
		wait -n -p ended "$JOB" "$nap" || status=$?
		[ "$ended" != "$JOB" ] || break
		say "$(how_far "$step"), $((SECONDS - start)) s"
	done
	JOB=''
	# Not TERM: right after its fork it still has our traps, and would tidy up.
	{ kill -KILL $nap && wait $nap; } 2>/dev/null || true
	return $status
}

# Downloads packages, $1 MiB in all, into $WORK/deb. False: could not be, WHY says why.
download()
{
	local environment=() state=(${STATE_APT[@]+"${STATE_APT[@]}"})
	DOWNLOAD_MIB=$1
	shift
	mkdir -p "$WORK/deb" "$WORK/apt-cache/archives/partial"
	if [ "${#state[@]}" -gt 0 ]; then
		environment=(APT_CONFIG="$WORK/apt.conf")
	else
		state=(-o Dir::Cache="$WORK/apt-cache")
	fi
	# apt-get is named outright, because timeout cannot call a function.
	attend $DOWNLOAD_S "$WORK/download.log" download env --chdir="$WORK/deb" ${environment[@]+"${environment[@]}"} \
		apt-get "${APT[@]}" "${state[@]}" -q download "$@" && return 0
	WHY=$(apt_reason "$WORK/download.log")
	rm -rf "$WORK/deb"
	return 1
}

# Downloads and unpacks image package $1, and puts it into the cache. False: it could not be downloaded. Callers test
# it, so errexit is off in here and every step is checked.
install_package()
{
	local image=$1 version parts part release need=0 total=0 suite tree=$WORK/tree vmlinuz config found size installed
	if [ -n "$FLAVOUR" ]; then
		install_source "$1"
		return
	fi
	version=${image#linux-image-}
	version=${version%-unsigned}
	FOUND=$version
	if [ -f "$KERNELS/$version/complete" ]; then
		return 0
	fi
	# From 7.x on the image package is empty, and depends on the parts.
	mapfile -t parts < <(package_field "$image" Depends | dependencies |
		grep -Fx -e "linux-binary-$version" -e "linux-modules-$version" -e "linux-base-$version" || true)
	parts=("$image" ${parts[@]+"${parts[@]}"})
	release=$(package_field "$image" Version)
	suite=$(package_suite "$image" "$release")
	for part in "${parts[@]}"; do
		size=$(package_field "$part" Size)
		installed=$(package_field "$part" Installed-Size)
		total=$((total + ${size:-0}))
		need=$((need + ${size:-0} / 1024 + ${installed:-0}))
	done
	need_space "$image" $((need / 1024 + 64))
	say "downloading ${parts[*]} $release ($suite)"
	download $((total / 1048576)) "${parts[@]}" || return 1
	mkdir -p "$tree"
	for part in "$WORK"/deb/*.deb; do
		dpkg-deb -x "$part" "$tree" || die $EX_FAIL "cannot unpack ${part##*/}"
		rm -f "$part"
	done
	# Both notations must lead to the modules: depmod and libkmod were built for one or the other.
	if [ ! -e "$tree/lib" ]; then
		ln -s usr/lib "$tree/lib"
	elif [ ! -e "$tree/usr/lib" ]; then
		mkdir -p "$tree/usr"
		ln -s ../lib "$tree/usr/lib"
	fi
	vmlinuz=''
	for found in "boot/vmlinuz-$version" "usr/lib/modules/$version/vmlinuz" "lib/modules/$version/vmlinuz"; do
		if [ -f "$tree/$found" ]; then vmlinuz=$found; break; fi
	done
	[ -n "$vmlinuz" ] || die $EX_FAIL "no vmlinuz in ${parts[*]}"
	[ "$(bzimage_version "$tree/$vmlinuz")" = "$version" ] || die $EX_FAIL "$image holds another version than its name says"
	[ -d "$tree/lib/modules/$version" ] || die $EX_FAIL "no modules in ${parts[*]}"
	depmod -b "$tree" "$version" || die $EX_FAIL "depmod failed on $image"
	config=''
	for found in "boot/config-$version" "usr/lib/modules/$version/config" "usr/lib/linux-config-$version"; do
		if [ -f "$tree/$found" ]; then config=$found; break; fi
	done
	chmod -R u+w "$tree"
	mkdir "$WORK/kernel" || die $EX_FAIL "cannot write to $WORK"
	mv "$tree" "$WORK/kernel/root" || die $EX_FAIL "cannot write to $WORK"
	printf 'version=%s\nvmlinuz=%s\nmodules=%s\nsource=%s\nconfig=%s\n' "$version" "root/$vmlinuz" root \
		"$image $release ($suite)" "${config:+root/$config}" >"$WORK/kernel/complete" || die $EX_FAIL "cannot write to $WORK"
	# What is in the way has no marker: a remnant.
	rm -rf "${KERNELS:?}/$version"
	mv -T "$WORK/kernel" "$KERNELS/$version" || die $EX_FAIL "cannot create $KERNELS/$version"
	rm -rf "$WORK/deb"
}

# --- a debug kernel -----------------------------------------------------------------------------------------------------

# make in the source tree. Nothing of the caller's environment: `make bench` hands its variables down in MAKEFLAGS.
kbuild()
{
	local limit=$1 log=$2 step=$3
	shift 3
	attend "$limit" "$log" "$step" env -i PATH="$PATH" HOME="$WORK" LC_ALL=C TMPDIR="${TMPDIR:-/tmp}" \
		KBUILD_BUILD_USER=headroom KBUILD_BUILD_HOST=headroom KBUILD_BUILD_TIMESTAMP="$(date -ur "$WORK/tree/Makefile")" \
		nice -n 10 make -C "$WORK/tree" LOCALVERSION= "$@"
}

# Prints which lines of the fragments do not hold in .config, one a line. What the source has no such option for is none
# of them.
unmet_options()
{
	cat -- "${FRAGMENTS[@]}" | sed -n -e 's/^# \(CONFIG_[A-Z0-9_]*\) is not set$/\1=n/p' -e '/^CONFIG_/p' |
		awk -F = -v config="$WORK/tree/.config" '
			FILENAME != "-" { known[$0] = 1; next }
			{ if (!($1 in wanted)) order[++n] = $1; wanted[$1] = $0 } # the last one counts
			END {
				while ((getline line < config) > 0)
					if (line ~ /^CONFIG_/) { split(line, part, "="); got[part[1]] = line }
				for (i = 1; i <= n; i++) {
					name = order[i]
					if (name in known && wanted[name] != (name in got ? got[name] : name "=n")) print wanted[name]
				}
			}' <(find "$WORK/tree" -name 'Kconfig*' -exec sed -nE 's/^[[:space:]]*(menu)?config ([A-Z0-9_]+).*/CONFIG_\2/p' {} +) -
}

# A log that explains a failure, where it can be read afterwards.
keep_log() { mv -f "$1" "$KERNELS/build-failed.log"; printf '%s' "$KERNELS/build-failed.log"; }

# Downloads source package $1, builds the debug kernel from it and puts it into the cache. As install_package() in all.
install_source()
{
	local package=$1 release suite size source status=0 version options
	release=$(package_field "$package" Version)
	suite=$(package_suite "$package" "$release")
	source="$package $release ($suite)"
	FOUND=${release%%-*}-$FLAVOUR
	if [ -f "$KERNELS/$FOUND/complete" ] && grep -qFx "source=$source" "$KERNELS/$FOUND/complete" &&
		grep -qFx "fragments=$WANTED" "$KERNELS/$FOUND/complete"; then
		return 0
	fi
	need_space "a debug kernel" $BUILD_MIB
	size=$(package_field "$package" Size)
	say "downloading $package $release ($suite)"
	download $((${size:-0} / 1048576)) "$package" || return 1
	# What follows needs nothing that others wait for.
	flock -u "$LOCK"

	say "unpacking $package"
	mkdir "$WORK/tree" || die $EX_FAIL "cannot write to $WORK"
	# The archive goes through, it is not kept.
	# shellcheck disable=SC2016
	attend $UNPACK_S "$WORK/unpack.log" unpacking nice -n 10 bash -c 'set -o pipefail
		cd "$1" && dpkg-deb --fsys-tarfile ../deb/*.deb | tar -xO --wildcards "./usr/src/linux-source-*.tar.xz" |
		tar -xJ --no-same-owner --strip-components=1 --anchored "${@:2}"' - \
		"$WORK/tree" "${NOT_UNPACKED[@]/#/--exclude=$package/}" || die $EX_FAIL "cannot unpack $package: $(tail -n 1 "$WORK/unpack.log")"
	rm -rf "$WORK/deb"

	kbuild $UNPACK_S "$WORK/config.log" configuring -s x86_64_defconfig ||
		die $EX_FAIL "cannot configure $package, see $(keep_log "$WORK/config.log")"
	cat -- "${FRAGMENTS[@]}" >>"$WORK/tree/.config" || die $EX_FAIL "cannot write to $WORK"
	kbuild $UNPACK_S "$WORK/config.log" configuring -s olddefconfig ||
		die $EX_FAIL "cannot configure $package, see $(keep_log "$WORK/config.log")"
	options=$(unmet_options)
	[ -z "$options" ] || die $EX_FAIL "$package cannot be built with ${options//$'\n'/, }"

	say "building $FOUND, once: some ten minutes on two cores"
	kbuild $BUILD_S "$WORK/build.log" build "-j$(nproc)" bzImage || status=$?
	[ $status -ne 124 ] || die $EX_FAIL "$FOUND was not built in $BUILD_S s, see $(keep_log "$WORK/build.log")"
	[ $status -eq 0 ] || die $EX_FAIL "$FOUND could not be built, see $(keep_log "$WORK/build.log"): $(grep -m 1 -iE 'error[: ]|\*\*\*' "$KERNELS/build-failed.log")"

	mkdir "$WORK/kernel" || die $EX_FAIL "cannot write to $WORK"
	cp "$WORK/tree/arch/x86/boot/bzImage" "$WORK/kernel/vmlinuz" || die $EX_FAIL "cannot write to $WORK"
	cp "$WORK/tree/.config" "$WORK/kernel/config" || die $EX_FAIL "cannot write to $WORK"
	version=$(bzimage_version "$WORK/kernel/vmlinuz")
	[ "$version" = "$FOUND" ] || die $EX_FAIL "$package became $version, and not $FOUND"
	printf 'version=%s\nvmlinuz=vmlinuz\nmodules=\nsource=%s\nconfig=config\nfragments=%s\n' "$FOUND" "$source" "$WANTED" \
		>"$WORK/kernel/complete" || die $EX_FAIL "cannot write to $WORK"
	# A remnant, or built with other options.
	rm -rf "${KERNELS:?}/$FOUND"
	mv -T "$WORK/kernel" "$KERNELS/$FOUND" || die $EX_FAIL "cannot create $KERNELS/$FOUND"
}

# Points by-spec/RUNNING-SPEC at a version.
remember()
{
	mkdir -p "$KERNELS/by-spec"
	ln -sfn "../$2" "$WORK/link"
	mv -T "$WORK/link" "$KERNELS/by-spec/$RUNNING-$1"
}

# The suites to search for SPEC, the likely ones first: each costs the download of its package lists.
suite_order()
{
	local spec=$1 entry first=() newer=() rest=()
	[ -z "$SERIES" ] || spec=$SERIES
	if [ "$spec" = default ] || [ "$spec" = debug ] || [ "$spec" = debug+lockdep ]; then
		printf '%s\n' "$RUNNING"
		return 0
	fi
	for entry in "${SUITES[@]}"; do
		if spec_matches "${entry#*:}" "$spec"; then
			first+=("${entry%%:*}")
		elif [ "${entry#*:}" = new ]; then
			newer+=("${entry%%:*}")
		else
			rest+=("${entry%%:*}")
		fi
	done
	printf '%s\n' ${first[@]+"${first[@]}"} "${newer[@]}" ${rest[@]+"${rest[@]}"}
}

# Finds SPEC $1, fetches it (or builds it), and leaves its version in FOUND.
fetch()
{
	local spec=$1 package suite searched=()
	UNREACHED=() WHY='' SEARCHED=''
	# The machine's own lists first: no network needed to look into them.
	STATE_APT=()
	package=$(find_package "$spec")
	if [ -n "$package" ] && install_package "$package"; then
		return 0
	fi
	if no_network; then return 1; fi
	while read -r suite; do
		searched+=("$suite")
		if ! use_suite "$suite"; then
			if no_network; then break; fi
			continue
		fi
		package=$(find_package "$spec")
		[ -n "$package" ] || continue
		if ! install_package "$package"; then
			# The lists may name a package that the mirror has replaced since.
			if no_network || ! use_suite "$suite" force; then continue; fi
			package=$(find_package "$spec")
			if [ -z "$package" ] || ! install_package "$package"; then continue; fi
		fi
		return 0
	done < <(suite_order "$spec")
	SEARCHED=${searched[*]}
	return 1
}

# --- main -------------------------------------------------------------------------------------------------------------

CACHE='' SPEC='' MODULES='' LIST='' REFRESH='' FLAVOUR='' SERIES='' JOB='' FOUND=''
while [ $# -gt 0 ]; do
	case $1 in
	--cache | --modules)
		[ $# -ge 2 ] || die $EX_USAGE "$1 needs a value (--help)"
		if [ "$1" = --cache ]; then CACHE=$2; else MODULES=$2; fi
		shift
		;;
	--list) LIST=1 ;;
	--refresh) REFRESH=1 ;;
	--help | -h) usage; exit 0 ;;
	-*) die $EX_USAGE "unknown option $1 (--help)" ;;
	*)
		[ -z "$SPEC" ] || die $EX_USAGE "more than one SPEC: $SPEC and $1 (--help)"
		[ -n "$1" ] || die $EX_USAGE "an empty SPEC (--help)"
		SPEC=$1
		;;
	esac
	shift
done
[ -n "$CACHE" ] || die $EX_USAGE "--cache DIR is missing (--help)"
if [ -n "$LIST" ]; then
	[ -z "$SPEC" ] || die $EX_USAGE "--list takes no SPEC (--help)"
else
	[ -n "$SPEC" ] || die $EX_USAGE "SPEC is missing (--help)"
fi

# A path needs neither cache nor network.
if [[ $SPEC == */* ]] || [ -f "$SPEC" ]; then
	print_path "$SPEC" "$MODULES"
	exit 0
fi
[ -z "$MODULES" ] || die $EX_USAGE "--modules goes with a kernel given by PATH (--help)"
if [[ $SPEC =~ $DEBUG_SPEC ]]; then
	SERIES=${BASH_REMATCH[2]}
	FLAVOUR=headroom-debug FRAGMENTS=("$HERE/debug.config")
	if [ -n "${BASH_REMATCH[3]}" ]; then
		FLAVOUR=headroom-lockdep FRAGMENTS+=("$HERE/debug-lockdep.config")
	fi
elif [[ $SPEC == debug* ]]; then
	die $EX_USAGE "SPEC of a debug kernel is debug, debug:6.1, debug+lockdep or debug:6.1+lockdep: not '$SPEC'"
fi
[ -n "$LIST$FLAVOUR" ] || [ "$SPEC" = default ] || [[ $SPEC =~ ^[0-9]+[A-Za-z0-9.+~-]*$ ]] ||
	die $EX_USAGE "SPEC is 'default', 'debug', a version such as 6.1, or a PATH: not '$SPEC'"

# shellcheck source=/dev/null
RUNNING=$(. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_CODENAME:-${ID:-unknown}}") || RUNNING=unknown
[[ $RUNNING =~ ^[A-Za-z0-9._-]+$ ]] || RUNNING=unknown
mkdir -p -- "$CACHE/kernels" 2>/dev/null || die $EX_NEED "cannot write to the cache $CACHE"
KERNELS=$(realpath -- "$CACHE/kernels")
APTSTATE=${KERNELS%/*}/apt

if [ -n "$LIST" ]; then
	list
	exit 0
fi

# The options that a debug kernel must have been built with to be an answer; empty for any other.
WANTED=''
[ -z "$FLAVOUR" ] || WANTED=$(grep -hE '^(# )?CONFIG_' -- "${FRAGMENTS[@]}" | sha256sum | cut -c 1-16)

# What the cache knows: the answer given before, or this very version.
answer_from_cache()
{
	local dir
	for dir in "$KERNELS/by-spec/$RUNNING-$SPEC" "$KERNELS/$SPEC"; do
		if [ -f "$dir/complete" ] && { [ -z "$WANTED" ] || grep -qFx "fragments=$WANTED" "$dir/complete"; }; then
			print_cached "$(realpath -- "$dir")"
			return 0
		fi
	done
	return 1
}
if [ -z "$REFRESH" ] && answer_from_cache; then
	exit 0
fi

[ "$(uname -m)" = x86_64 ] || die $EX_NEED "Debian kernels are fetched for x86_64 only, this is $(uname -m): give a kernel by PATH"
for tool in apt-get apt-cache apt-config dpkg-deb depmod flock setpriv timeout; do
	if ! command -v "$tool" >/dev/null; then
		PATH=$PATH:/usr/sbin:/sbin # depmod, for those who are not root
		command -v "$tool" >/dev/null || {
			from_boot "$SPEC" && exit 0
			die $EX_NEED "$tool is missing: kernels are fetched with Debian's tools (or give a kernel by PATH)"
		}
	fi
done
if [ -n "$FLAVOUR" ]; then
	missing=$("$DEPS" --for debug-kernel --print) || true
	[ -z "$missing" ] || die $EX_NEED "to build a debug kernel ${missing//$'\n'/, } is missing: run tools/deps.sh --for debug-kernel"
fi

# Takes lock file $1, and leaves its descriptor in TAKEN; it is held until we and all that we started are gone.
take_lock()
{
	exec {TAKEN}>"$KERNELS/$1" || die $EX_NEED "cannot write to the cache $CACHE"
	if ! flock -n "$TAKEN"; then
		say "waiting for another $ME"
		flock -w "$2" "$TAKEN" || die $EX_NEED "another $ME has been busy in $CACHE for $2 s"
		if answer_from_cache; then
			exit 0
		fi
	fi
}
# What lies there while we hold the lock belongs to runs that were killed.
KIND=tmp
if [ -n "$FLAVOUR" ]; then
	KIND=build
	take_lock .lock-build $((DOWNLOAD_S + UNPACK_S + BUILD_S))
	rm -rf "$KERNELS"/.build.*
fi
take_lock .lock $LOCK_S
LOCK=$TAKEN
rm -rf "$KERNELS"/.tmp.*
WORK=$(mktemp -d "$KERNELS/.$KIND.XXXXXX")
# A step that runs passes the signal on to all that it started, and nothing may write when the directory goes.
trap '[ -z "$JOB" ] || { kill "$JOB" && wait "$JOB"; } 2>/dev/null || true; rm -rf "$WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "$WORK/apt-cache/archives/partial"

if fetch "$SPEC"; then
	remember "$SPEC" "$FOUND"
	print_cached "$KERNELS/$FOUND"
	exit 0
fi
if dir=$(cached_match "$SPEC"); then
	say "taking ${dir##*/} from the cache, nothing newer could be had"
	print_cached "$dir"
	exit 0
fi
if from_boot "$SPEC"; then
	exit 0
fi
SOUGHT=kernel
[ -z "$FLAVOUR" ] || SOUGHT="source of a kernel for"
if [ "${#UNREACHED[@]}" -gt 0 ] || [ -n "$WHY" ]; then
	die $EX_NEED "$SOUGHT $SPEC cannot be had: no access to Debian's ${UNREACHED[*]:-packages}${WHY:+ ($WHY)}; give a kernel by PATH, or run this once with a network"
fi
die $EX_NEED "no $SOUGHT $SPEC in the machine's apt sources, nor in $SEARCHED; SPEC is default, a version such as 5.10 6.1 6.12, debug, or the PATH of a bzImage"
