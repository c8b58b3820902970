#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Build what a guest boots from: a tiny initramfs and a read-only system disk. Root is not needed.
#
# The initramfs holds init and the drivers of the system disk, nothing else: what lies in it lies in guest memory. All
# the rest (headroom, the load generators, their libraries, the modules a scenario may load) is on the disk, whose pages
# the guest can drop. Both are kept under a key made of everything that went into them.
set -euo pipefail
export LC_ALL=C

readonly ME=${0##*/}
readonly EX_USAGE=2 EX_NEED=3 EX_FAIL=4
readonly EARLY_DEFAULT=(virtio_pci virtio_blk ext4)
# For a look around with headroom.shell, and for what a stressor may call.
readonly APPLETS=(sh ash awk cat chmod cp cut date dd df dmesg du echo env false find free grep halt head hexdump id kill
	killall less ln losetup ls lsmod md5sum mkdir mkfifo mknod mkswap more mount mv nice nproc od pidof pkill ping
	poweroff printf ps pwd readlink reboot rm rmdir sed seq setsid sha256sum sleep sort stat stty swapoff swapon sync
	sysctl tail tar tee test time timeout top touch tr true truncate umount uname uptime usleep vi vmstat wc which xargs)
readonly LIBRARY_DIRS=' /lib /usr/lib /lib64 /usr/lib64 /lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu '
readonly UUID=68656164-726f-4f6d-8000-000000000001 EPOCH=1700000000 # fixed, so that equal contents give equal images as far as mke2fs can
readonly KEEP=8 KEEP_MIN=60 # images kept, and for how many minutes after its last use none is removed
readonly LOCK_S=900

usage()
{
	cat <<-END
	usage: $ME --cache DIR --kernel-version V --modules ROOT --init PATH --headroom PATH
	       [--program NAME]... [--module NAME]... [--early-module NAME]...

	  --kernel-version V   as printed by kernel.sh
	  --modules ROOT       its modules lie in ROOT/lib/modules/V; empty: all drivers are built in
	  --init PATH          static program that becomes /init
	  --headroom PATH      becomes /usr/bin/headroom
	  --program NAME       also on the disk, with its libraries: a NAME as /usr/bin/NAME, a PATH under its own path
	  --module NAME        loadable in the guest, with all it depends on
	  --early-module NAME  loaded before the disk is there (default: ${EARLY_DEFAULT[*]})

	A NAME that ends in '?' is left out where there is no such thing; any other must exist (a module may be built in).
	Prints initramfs= and image=.
	Exit status: 0 done, 2 usage, 3 a need is not met (said in one line), 4 own failure.
	END
}

say() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

# The guest's paths are the host's: what is not on PATH for a user is still wanted.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

CACHE='' VERSION='' INIT='' HEADROOM=''
PROGRAMS=() MODULES=() EARLY=()
unset ROOT
while [ $# -gt 0 ]; do
	case $1 in
	--help | -h) usage; exit 0 ;;
	--cache | --kernel-version | --modules | --init | --headroom | --program | --module | --early-module)
		[ $# -ge 2 ] || die $EX_USAGE "$1 needs a value (--help)"
		[ -n "$2" ] || [ "$1" = --modules ] || die $EX_USAGE "$1 has an empty value (--help)"
		;;
	*) die $EX_USAGE "unknown argument $1 (--help)" ;;
	esac
	case $1 in
	--cache) CACHE=$2 ;;
	--kernel-version) VERSION=$2 ;;
	--modules) ROOT=$2 ;;
	--init) INIT=$2 ;;
	--headroom) HEADROOM=$2 ;;
	--program) PROGRAMS+=("$2") ;;
	--module) MODULES+=("$2") ;;
	--early-module) EARLY+=("$2") ;;
	esac
	shift 2
done
[ -n "$CACHE" ] || die $EX_USAGE "--cache DIR is missing (--help)"
[ -n "$VERSION" ] || die $EX_USAGE "--kernel-version V is missing (--help)"
[ -n "${ROOT+set}" ] || die $EX_USAGE "--modules ROOT is missing, empty if all is built in (--help)"
[ -n "$INIT" ] || die $EX_USAGE "--init PATH is missing (--help)"
[ -n "$HEADROOM" ] || die $EX_USAGE "--headroom PATH is missing (--help)"
[[ $VERSION =~ ^[0-9][A-Za-z0-9._+~-]*$ ]] || die $EX_USAGE "not a kernel version: $VERSION (--help)"
for name in ${MODULES[@]+"${MODULES[@]}"} ${EARLY[@]+"${EARLY[@]}"}; do
	[[ $name =~ ^[A-Za-z0-9_-]+\??$ ]] || die $EX_USAGE "not a module name: $name (--help)"
done
[ "${#EARLY[@]}" -gt 0 ] || EARLY=("${EARLY_DEFAULT[@]}")

for name in "$INIT" "$HEADROOM"; do
	[[ -f $name && -x $name ]] || die $EX_NEED "no such program: $name (build it first)"
done
MODDIR=
if [ -n "$ROOT" ]; then
	for MODDIR in "${ROOT%/}/lib/modules/$VERSION" "${ROOT%/}/usr/lib/modules/$VERSION"; do
		[ ! -d "$MODDIR" ] || break
	done
	[ -d "$MODDIR" ] || die $EX_NEED "no modules of $VERSION: ${ROOT%/}/lib/modules/$VERSION does not exist"
	[ -f "$MODDIR/modules.dep" ] || die $EX_NEED "$MODDIR has no modules.dep: run depmod -b $ROOT $VERSION"
	MODDIR=$(realpath -- "$MODDIR")
fi
for tool in mke2fs:e2fsprogs cpio:cpio gzip:gzip depmod:kmod modprobe:kmod flock:util-linux ldd:libc-bin busybox:busybox-static; do
	command -v "${tool%%:*}" >/dev/null || die $EX_NEED "${tool%%:*} is missing: install ${tool#*:}"
done

# --- what goes in -----------------------------------------------------------------------------------------------------

SOURCES=() TARGETS=() # a file here, and its path in the guest
add() { SOURCES+=("$1"); TARGETS+=("$2"); }

# A program or library that the user named.
add_program()
{
	local name=${1%\?} path line
	case $name in
	/*) path=$name ;;
	*/*) die $EX_USAGE "neither a name nor an absolute path: $name (--help)" ;;
	*) path=$(type -P -- "$name") || path='' ;;
	esac
	if [ -z "$path" ] || [ ! -f "$path" ]; then
		[[ $1 != *\? ]] || return 0
		die $EX_NEED "program $name is missing on this machine, the guest needs it"
	fi
	if [[ $name == /* ]]; then add "$path" "$name"; else add "$path" "/usr/bin/$name"; fi
	# A script needs its interpreter; a shell is there anyway.
	line=$(head -c 128 -- "$path" | tr -d '\0' | head -n 1) || true
	if [[ $line =~ ^'#!'[[:space:]]*(/[^[:space:]]+) ]]; then
		case ${BASH_REMATCH[1]} in
		/bin/sh | /usr/bin/env) ;;
		*) add_program "${BASH_REMATCH[1]}" ;;
		esac
	fi
}

add "$(realpath -- "$HEADROOM")" /usr/bin/headroom
add "$(type -P busybox)" /usr/bin/busybox
add "$(type -P kmod)" /usr/bin/kmod # the kernel itself calls modprobe, for a cipher say
for name in ${PROGRAMS[@]+"${PROGRAMS[@]}"}; do
	add_program "$name"
done

# Their libraries, each under its own path. Linux's loader is among them.
LIBRARIES=()
closure=$(ldd "${SOURCES[@]}" 2>/dev/null || true) # its status only tells that one of them is static
if missing=$(grep -m 1 'not found' <<<"$closure"); then
	die $EX_NEED "a library is missing on this machine:${missing%%=>*}"
fi
mapfile -t LIBRARIES < <(sed -n -e 's/^\t.* => \(\/[^ ]*\) (0x.*/\1/p' -e 's/^\t\(\/[^ ]*\) (0x.*/\1/p' <<<"$closure" | sort -u)
# glibc loads this one by name when a thread ends early.
for library in ${LIBRARIES[@]+"${LIBRARIES[@]}"}; do
	if [[ $library == */libc.so.6 ]] && [ -f "${library%/*}/libgcc_s.so.1" ]; then
		LIBRARIES+=("${library%/*}/libgcc_s.so.1")
	fi
done
for library in ${LIBRARIES[@]+"${LIBRARIES[@]}"}; do
	add "$library" "$library"
done

# Size and time stand for a file's contents: reading all of them would cost what the cache is to save.
KEY=$({
	printf '%s\n' "$VERSION" "$MODDIR" -- "${EARLY[@]}" -- ${MODULES[@]+"${MODULES[@]}"} -- "${TARGETS[@]}"
	stat -Lc '%n %s %Y' -- "$INIT" "${SOURCES[@]}" ${MODDIR:+"$MODDIR/modules.dep"}
	cat -- "${BASH_SOURCE[0]}"
} | sha256sum)
KEY=$VERSION-${KEY:0:16}

mkdir -p -- "$CACHE/images" 2>/dev/null || die $EX_NEED "cannot write to the cache $CACHE"
IMAGES=$(realpath -- "$CACHE/images")

answer_from_cache()
{
	[ -f "$IMAGES/$KEY/complete" ] || return 1
	touch -c -- "$IMAGES/$KEY" 2>/dev/null || true # its last use, for the sweep
	printf 'initramfs=%s\nimage=%s\n' "$IMAGES/$KEY/initramfs.gz" "$IMAGES/$KEY/system.ext4"
}
if answer_from_cache; then
	exit 0
fi

exec {LOCK}>"$IMAGES/.lock" || die $EX_NEED "cannot write to the cache $CACHE"
if ! flock -n "$LOCK"; then
	say "waiting for another $ME"
	flock -w $LOCK_S "$LOCK" || die $EX_NEED "another $ME has been busy in $CACHE for $LOCK_S s"
	if answer_from_cache; then
		exit 0
	fi
fi
# We hold the lock, so these belong to runs that were killed.
rm -rf "$IMAGES"/.tmp.*
WORK=$(mktemp -d "$IMAGES/.tmp.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- modules ----------------------------------------------------------------------------------------------------------

# modprobe is shown a root of our own, where it finds the modules whichever path it was built for.
mkdir -p "$WORK/root/lib/modules" "$WORK/root/usr" "$WORK/no-config"
ln -s ../lib "$WORK/root/usr/lib"
[ -z "$MODDIR" ] || ln -s "$MODDIR" "$WORK/root/lib/modules/$VERSION"

# Prints the files that make up the closure of the named modules, in the order of loading, relative to the modules'
# directory.
module_closure()
{
	local name out
	[ -n "$MODDIR" ] || return 0
	for name in "$@"; do
		if ! out=$(modprobe -d "$WORK/root" -C "$WORK/no-config" -S "$VERSION" --show-depends -- "${name%\?}" 2>/dev/null); then
			[[ $name != *\? ]] || continue
			die $EX_NEED "kernel $VERSION has no module $name, neither in $MODDIR nor built in"
		fi
		sed -n "s,^insmod $WORK/root/.*/modules/$VERSION/\([^ ]*\).*,\1,p" <<<"$out"
	done | awk '!seen[$0]++'
}

# Copies module $1 to $2 without its compression: the guest has no tool for it, and its kernel may have no support.
unpack()
{
	local tool
	case $1 in
	*.ko) cp -L -- "$1" "$2"; return ;;
	*.xz) tool=xz ;;
	*.zst) tool=zstd ;;
	*.gz) tool=gzip ;;
	*) die $EX_FAIL "unknown kind of module: $1" ;;
	esac
	command -v $tool >/dev/null || die $EX_NEED "$tool is missing: the modules of $VERSION are packed with it"
	$tool -dc <"$1" >"$2"
}

# --- initramfs --------------------------------------------------------------------------------------------------------

say "building the image for $VERSION"
FILES=$(module_closure "${EARLY[@]}")
mkdir -p "$WORK/initramfs/modules" "$WORK/out"
cp -L -- "$INIT" "$WORK/initramfs/init"
chmod 755 "$WORK/initramfs/init"
: >"$WORK/initramfs/early"
for file in $FILES; do
	name=${file##*/}
	name=${name%.ko*}.ko
	unpack "$MODDIR/$file" "$WORK/initramfs/modules/$name"
	printf '/modules/%s\n' "$name" >>"$WORK/initramfs/early"
done
find "$WORK/initramfs" -exec touch -h -d @$EPOCH {} +
(cd "$WORK/initramfs" && find . | sort | cpio --quiet -o -H newc -R 0:0 --reproducible) | gzip -6n >"$WORK/out/initramfs.gz"

# --- system disk ------------------------------------------------------------------------------------------------------

STAGE=$WORK/stage
mkdir -p "$STAGE"/{usr/bin,usr/lib,usr/lib64,etc,proc,sys,dev,run,tmp,scratch,mnt,root,var/tmp}
ln -s bin "$STAGE/usr/sbin"
for name in bin sbin lib lib64; do
	ln -s usr/$name "$STAGE/$name"
done
ln -s /run "$STAGE/var/run"
ln -s /proc/self/mounts "$STAGE/etc/mtab"
chmod 1777 "$STAGE/tmp" "$STAGE/var/tmp"
printf 'root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$STAGE/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$STAGE/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files\n' >"$STAGE/etc/nsswitch.conf"
printf '127.0.0.1 localhost\n' >"$STAGE/etc/hosts"

extra_dirs=
for i in "${!SOURCES[@]}"; do
	target=$STAGE${TARGETS[i]}
	mkdir -p "${target%/*}"
	cp -L -- "${SOURCES[i]}" "$target" || die $EX_NEED "cannot read ${SOURCES[i]}, which belongs into the guest"
	chmod 755 "$target"
	dir=${TARGETS[i]%/*}
	if [[ ${TARGETS[i]} == *.so* && $LIBRARY_DIRS != *" $dir "* ]]; then extra_dirs+=$dir$'\n'; fi
done
for name in modprobe insmod rmmod lsmod depmod; do
	[ -e "$STAGE/usr/bin/$name" ] || ln -s kmod "$STAGE/usr/bin/$name"
done
supported=" $("$STAGE/usr/bin/busybox" --list 2>/dev/null | tr '\n' ' ')"
for name in "${APPLETS[@]}"; do
	if [ ! -e "$STAGE/usr/bin/$name" ] && [[ $supported == *" $name "* ]]; then
		ln -s busybox "$STAGE/usr/bin/$name"
	fi
done
# The loader knows the usual directories by itself.
if [ -n "$extra_dirs" ]; then
	sort -u <<<"$extra_dirs" | sed '/^$/d' >"$STAGE/etc/ld.so.conf"
	ldconfig -r "$STAGE" -X 2>/dev/null || say "ldconfig failed: libraries in unusual places may not be found"
fi

# Without modules there is no index, which headroom takes for "all built in"; in an empty one every module would be missing.
mkdir -p "$STAGE/lib/modules/$VERSION"
FILES=$(module_closure ${MODULES[@]+"${MODULES[@]}"} "${EARLY[@]}")
for file in $FILES; do
	mkdir -p "$STAGE/lib/modules/$VERSION/${file%/*}"
	unpack "$MODDIR/$file" "$STAGE/lib/modules/$VERSION/${file%.ko*}.ko"
done
for file in modules.builtin modules.builtin.modinfo modules.order; do
	if [ -n "$MODDIR" ] && [ -f "$MODDIR/$file" ]; then
		cp -L -- "$MODDIR/$file" "$STAGE/lib/modules/$VERSION/$file"
	else
		: >"$STAGE/lib/modules/$VERSION/$file"
	fi
done
[ -z "$MODDIR" ] || depmod -b "$STAGE" "$VERSION" || die $EX_FAIL "depmod failed"
find "$STAGE" -exec touch -h -d @$EPOCH {} +

# Whole blocks of every file, the inodes, and a little for the file system itself.
read -r blocks inodes < <(find "$STAGE" -printf '%s\n' | awk '{ b += int(($1 + 4095) / 4096) + 1; n++ } END { print b, n }')
inodes=$((inodes + 64))
blocks=$((blocks + blocks / 64 + inodes / 16 + 512))
[ "$(df --output=avail -m -- "$WORK" | tail -n 1)" -ge $((blocks / 256 + 16)) ] ||
	die $EX_NEED "no space for the image: $((blocks / 256 + 16)) MiB needed in $IMAGES"
# Only features that every kernel in question has, and no journal or checksums: it is never written to. Not the host's
# mke2fs.conf, so that the image does not depend on it.
if ! MKE2FS_CONFIG=/dev/null E2FSPROGS_FAKE_TIME=$EPOCH SOURCE_DATE_EPOCH=$EPOCH mke2fs -q -F -t ext4 \
	-O none,extent,filetype,dir_index,large_file,sparse_super,flex_bg,uninit_bg -b 4096 -I 256 -m 0 -N $inodes \
	-U $UUID -L headroom -E root_owner=0:0,hash_seed=$UUID,lazy_itable_init=0 -d "$STAGE" \
	"$WORK/out/system.ext4" $blocks >"$WORK/mke2fs.log" 2>&1; then
	die $EX_FAIL "mke2fs failed: $(tail -n 1 "$WORK/mke2fs.log")"
fi
{
	printf 'version=%s\n' "$VERSION"
	printf '%s\n' "${TARGETS[@]}"
} >"$WORK/out/complete"

# What is in the way has no marker: a remnant.
rm -rf "${IMAGES:?}/$KEY"
mv -T "$WORK/out" "$IMAGES/$KEY"

# Every new build of headroom makes new images: keep the newest, and what may be in use by a run.
find "$IMAGES" -mindepth 1 -maxdepth 1 -type d ! -name '.*' -printf '%T@ %p\n' | sort -rn | tail -n +$((KEEP + 1)) |
	while read -r _ dir; do
		if [ -z "$(find "$dir" -maxdepth 0 -mmin -$KEEP_MIN)" ]; then rm -rf "$dir"; fi
	done
answer_from_cache
