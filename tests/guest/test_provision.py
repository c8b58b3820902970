# SPDX-License-Identifier: MIT
"""kernel.sh and image.sh: what they answer, what they refuse, and that a cache survives being killed and shared.

Most of it runs against a stand-in for apt that serves packages built here, so it needs no network and can count what was
asked of it. What needs a real kernel takes it from the project's own cache (HEADROOM_CACHE or build/cache), where the
first run downloads it.
"""
import concurrent.futures
import gzip
import io
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import tarfile
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
KERNEL = TOP / "runtime/guest/kernel.sh"
IMAGE = TOP / "runtime/guest/image.sh"
DEPS = TOP / "tools/deps.sh"
SHARED_CACHE = pathlib.Path(os.environ.get("HEADROOM_CACHE", TOP / "build/cache"))
# Nobody listens on the discard port: any attempt to use the network fails at once.
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}

USAGE, NEED = 2, 3


def run(*argv, env=None, timeout=600, **kwargs):
    return subprocess.run([str(a) for a in argv], env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          timeout=timeout, stdin=subprocess.DEVNULL, **kwargs)


def answer(result):
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def assert_refused(result, code, *words):
    """One clear line on stderr, nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    last = lines[-1]
    # Progress may stand before it; without progress there is one line alone.
    assert all(line.startswith(last.split(":")[0] + ": ") for line in lines), result.stderr
    for word in words:
        assert word in last, last


def bzimage(path, version="9.9.1-test", *, magic=b"HdrS", payload=4096, sects=1, cut=0, packed=b"", size=0):
    """A file with the header of a bzImage and no kernel in it."""
    text = (version + " (nobody@nowhere) #1 SMP").encode() + b"\0"
    image = bytearray((sects + 1) * 512 + payload)
    image[0x1f1] = sects
    struct.pack_into("<I", image, 0x1f4, payload // 16)
    struct.pack_into("<H", image, 0x1fe, 0xaa55)
    image[0x202:0x206] = magic
    struct.pack_into("<H", image, 0x20e, 0x280 - 0x200)
    image[0x280:0x280 + len(text)] = text
    if packed:
        struct.pack_into("<II", image, 0x248, 64, len(packed) + 4)
        start = (sects + 1) * 512 + 64
        image[start:start + len(packed) + 4] = packed + struct.pack("<I", size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image[:len(image) - cut])
    return path


# --- a kernel given by its path ---------------------------------------------------------------------------------------


class TestPath:
    def kernel(self, tmp_path, spec, *args):
        return run(KERNEL, "--cache", tmp_path / "cache", spec, *args, env=NO_NETWORK)

    def test_everything_built_in(self, tmp_path):
        image = bzimage(tmp_path / "bzImage")
        got = answer(self.kernel(tmp_path, image))
        assert got == {"version": "9.9.1-test", "vmlinuz": str(image), "vmlinux": "", "modules": "", "source": str(image),
                       "config": ""}
        assert not (tmp_path / "cache").exists()

    def test_modules_of_the_tree_it_lies_in(self, tmp_path):
        image = bzimage(tmp_path / "tree/boot/vmlinuz-9.9.1-test")
        (tmp_path / "tree/lib/modules/9.9.1-test").mkdir(parents=True)
        (tmp_path / "tree/boot/config-9.9.1-test").write_text("CONFIG_X=y\n")
        got = answer(self.kernel(tmp_path, image))
        assert got["modules"] == str(tmp_path / "tree")
        assert got["config"] == str(tmp_path / "tree/boot/config-9.9.1-test")

    def test_config_of_a_build_tree(self, tmp_path):
        image = bzimage(tmp_path / "linux/arch/x86/boot/bzImage")
        (tmp_path / "linux/.config").write_text("CONFIG_X=y\n")
        assert answer(self.kernel(tmp_path, image))["config"] == str(tmp_path / "linux/.config")

    def test_modules_named(self, tmp_path):
        image = bzimage(tmp_path / "bzImage")
        (tmp_path / "root/lib/modules/9.9.1-test").mkdir(parents=True)
        assert answer(self.kernel(tmp_path, image, "--modules", tmp_path / "root"))["modules"] == str(tmp_path / "root")

    def test_modules_of_another_version(self, tmp_path):
        image = bzimage(tmp_path / "bzImage")
        (tmp_path / "root/lib/modules/9.9.2-test").mkdir(parents=True)
        assert_refused(self.kernel(tmp_path, image, "--modules", tmp_path / "root"), NEED, "9.9.1-test")

    def test_path_with_a_space(self, tmp_path):
        image = bzimage(tmp_path / "a b/bzImage")
        assert answer(self.kernel(tmp_path, image))["vmlinuz"] == str(image)

    def test_bare_name_of_a_file(self, tmp_path):
        bzimage(tmp_path / "bzImage")
        got = answer(run(KERNEL, "--cache", tmp_path / "cache", "bzImage", cwd=tmp_path))
        assert got["vmlinuz"] == str(tmp_path / "bzImage")

    @pytest.mark.parametrize("content", [b"", b"x", b"\x7fELF" + bytes(4000), bytes(511), bytes(20000)],
                             ids=["empty", "short", "elf", "sector", "zeros"])
    def test_not_a_bzimage(self, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        assert_refused(self.kernel(tmp_path, tmp_path / "file"), NEED, "not a bzImage")

    def test_other_magic(self, tmp_path):
        assert_refused(self.kernel(tmp_path, bzimage(tmp_path / "i", magic=b"XdrS")), NEED, "not a bzImage")

    @pytest.mark.parametrize("cut", [4096, 4097, 100, 16])
    def test_truncated(self, tmp_path, cut):
        assert_refused(self.kernel(tmp_path, bzimage(tmp_path / "i", cut=cut)), NEED, "truncated bzImage")

    @pytest.mark.parametrize("version", ["../../etc", "", "6.1/../x", "6.1$(touch x)", "nonsense"])
    def test_hostile_version(self, tmp_path, version):
        assert_refused(self.kernel(tmp_path, bzimage(tmp_path / "i", version)), NEED, "not a bzImage")

    def test_no_such_file_and_directory(self, tmp_path):
        assert_refused(self.kernel(tmp_path, tmp_path / "none"), NEED, "no such kernel")
        assert_refused(self.kernel(tmp_path, tmp_path), NEED, "no such kernel")


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [
    [], ["--cache"], ["6.1"], ["--cache", "C"], ["--cache", "C", "6.1", "5.10"], ["--cache", "C", "--what", "6.1"],
    ["--cache", "C", "six"], ["--cache", "C", ""], ["--cache", "C", "6.1;x"], ["--cache", "C", "--list", "6.1"],
    ["--cache", "C", "6.1", "--modules", "/x"], ["--cache", "C", "debug", "--modules", "/x"],
])
def test_kernel_usage(tmp_path, args):
    assert_refused(run(KERNEL, *args, cwd=tmp_path), USAGE, "--help" if args[-1:] != ["six"] and "6.1;x" not in args else "SPEC")
    assert not (tmp_path / "C").exists()


IMAGE_ARGS = {"--cache": "C", "--kernel-version": "9.9.1", "--modules": "", "--init": "/bin/true", "--headroom": "/bin/true"}


@pytest.mark.parametrize("missing", IMAGE_ARGS)
def test_image_usage_missing(tmp_path, missing):
    args = [word for key, value in IMAGE_ARGS.items() if key != missing for word in (key, value)]
    assert_refused(run(IMAGE, *args, cwd=tmp_path), USAGE, missing)


@pytest.mark.parametrize("extra", [["--what"], ["word"], ["--module"], ["--module", "a b"], ["--module", "../x"], ["--program", ""],
                                   ["--program", "a/b"], ["--kernel-version", "../9"]])
def test_image_usage_wrong(tmp_path, extra):
    args = [word for pair in IMAGE_ARGS.items() for word in pair]
    assert_refused(run(IMAGE, *args, *extra, cwd=tmp_path), USAGE, "--help")


@pytest.mark.parametrize("script", [KERNEL, IMAGE, DEPS])
def test_help(script):
    result = run(script, "--help")
    assert result.returncode == 0 and result.stdout.startswith("usage: ") and result.stderr == ""


@pytest.mark.parametrize("args", [["--for"], ["--for", "x"], ["x"]])
def test_deps_usage(args):
    assert_refused(run(DEPS, *args), USAGE, "--help")


# --- kernels of packages, from a stand-in for apt -----------------------------------------------------------------------

FAKE_APT = r'''#!/bin/sh
# Stands in for apt-get, apt-cache and apt-config; serves $FAKE/*.deb, tells in $FAKE/log what it was asked.
me=${0##*/}
while [ $# -gt 0 ]; do
	case $1 in
	-o) shift 2 ;;
	-*) shift ;;
	*) break ;;
	esac
done
echo "$me $*" >>"$FAKE/log"
field() { dpkg-deb -f "$FAKE/$1.deb" "$2" 2>/dev/null; }
case $me/$1 in
apt-config/*) ;;
apt-cache/pkgnames) cd "$FAKE" && ls *.deb 2>/dev/null | sed 's/\.deb$//' ;;
apt-cache/show)
	for name in "$@"; do :; done
	[ -f "$FAKE/$name.deb" ] || exit 100
	dpkg-deb -f "$FAKE/$name.deb"
	echo "Size: $(stat -c %s "$FAKE/$name.deb")"
	;;
apt-cache/madison) echo "$2 | $(field "$2" Version) | http://mirror.invalid/debian testsuite/main amd64 Packages" ;;
apt-get/download)
	shift
	[ ! -e "$FAKE/broken" ] || { echo "Err:1 http://mirror.invalid/x"; echo "  404  Not Found"; exit 100; }
	[ ! -e "$FAKE/slow" ] || sleep "$(cat "$FAKE/slow")"
	for name in "$@"; do cp "$FAKE/$name.deb" . || exit 100; done
	;;
apt-get/update) echo "Err:1 http://mirror.invalid/x"; echo "  Could not resolve 'mirror.invalid'"; exit 100 ;;
apt-get/indextargets) echo "bookworm|Debian|http://mirror.invalid/debian/" ;;
*) echo "fake apt: what is $me $*?" >>"$FAKE/log"; exit 100 ;;
esac
'''


class FakeApt:
    def __init__(self, tmp_path):
        self.dir = tmp_path / "apt"
        self.cache = tmp_path / "cache"
        self.build = tmp_path / "build"
        (self.dir / "bin").mkdir(parents=True)
        for name in ("apt-get", "apt-cache", "apt-config"):
            script = self.dir / "bin" / name
            script.write_text(FAKE_APT)
            script.chmod(0o755)

    def package(self, name, files=None, depends="kmod", release="1.2-3"):
        root = self.build / name
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {release}\nArchitecture: amd64\nMaintainer: nobody <nobody@nowhere.invalid>\n"
            f"Installed-Size: 20\nDepends: {depends}\nDescription: test\n")
        for path, content in (files or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if content is bzimage:
                bzimage(root / path, name.removeprefix("linux-image-").removeprefix("linux-binary-").removesuffix("-unsigned"))
            elif isinstance(content, bytes):
                (root / path).write_bytes(content)
            else:
                (root / path).write_text(content)
        subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, self.dir / f"{name}.deb"], check=True,
                       capture_output=True)

    def image(self, name, release="1.2-3"):
        version = name.removeprefix("linux-image-").removesuffix("-unsigned")
        self.package(name, {f"boot/vmlinuz-{version}": bzimage, f"boot/config-{version}": "CONFIG_X=y\n",
                            f"lib/modules/{version}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
                            f"lib/modules/{version}/modules.order": ""}, release=release)

    def argv(self, spec, *args):
        return [str(KERNEL), "--cache", str(self.cache), spec, *args]

    def env(self):
        return {**NO_NETWORK, "FAKE": str(self.dir), "PATH": f"{self.dir}/bin:{os.environ['PATH']}"}

    def kernel(self, spec, *args):
        return run(*self.argv(spec, *args), env=self.env(), timeout=60)

    def log(self):
        log = self.dir / "log"
        return log.read_text().splitlines() if log.exists() else []

    def downloads(self):
        return [line for line in self.log() if line.startswith("apt-get download")]

    def leftovers(self):
        return list((self.cache / "kernels").glob(".tmp.*"))


@pytest.fixture
def apt(tmp_path):
    return FakeApt(tmp_path)


class TestPackage:
    def test_answer_and_layout(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        got = answer(apt.kernel("6.1"))
        root = apt.cache / "kernels/6.1.0-42-amd64/root"
        assert got == {"version": "6.1.0-42-amd64", "vmlinuz": f"{root}/boot/vmlinuz-6.1.0-42-amd64", "vmlinux": "", "modules": str(root),
                       "source": "linux-image-6.1.0-42-amd64 1.2-3 (testsuite)", "config": f"{root}/boot/config-6.1.0-42-amd64"}
        for lib in ("lib", "usr/lib"):  # depmod and libkmod look into one or the other
            assert (root / lib / "modules/6.1.0-42-amd64/modules.dep").is_file()
        assert not apt.leftovers()

    @pytest.mark.parametrize("config, damage, found", [("CONFIG_PVH=y", 0, True), ("CONFIG_PVH=y", 1, False), ("CONFIG_X=y", 0, False)])
    def test_a_guest_is_started_from_the_unpacked_kernel(self, apt, config, damage, found):
        """If that can be started, and is whole."""
        elf = b"\x7fELF" + bytes(range(256)) * 8
        image = bzimage(apt.dir / "vmlinuz", "6.1.0-42-amd64", packed=gzip.compress(elf), size=len(elf) + damage)
        apt.package("linux-image-6.1.0-42-amd64", {"boot/vmlinuz-6.1.0-42-amd64": image.read_bytes(),
                                                   "boot/config-6.1.0-42-amd64": config + "\n",
                                                   "lib/modules/6.1.0-42-amd64/modules.builtin": "",
                                                   "lib/modules/6.1.0-42-amd64/modules.order": ""})
        for _ in range(2):  # made, and found again
            path = answer(apt.kernel("6.1"))["vmlinux"]
            assert bool(path) == found
            assert not found or pathlib.Path(path).read_bytes() == elf
        assert not list(apt.cache.glob("kernels/*/vmlinux.*"))

    def test_the_right_one_is_chosen(self, apt):
        for name in ("6.1.0-9-amd64", "6.1.0-42-amd64", "6.1.0-50-rt-amd64", "6.1.0-50-cloud-amd64", "6.1.0-51-amd64-unsigned",
                     "6.12.3+deb12-amd64", "6.10.1-amd64", "5.10.0-60-amd64"):
            apt.image("linux-image-" + name)
        apt.package("linux-image-6.1-amd64", depends="linux-image-6.1.0-42-amd64")
        assert answer(apt.kernel("6.1"))["version"] == "6.1.0-42-amd64"
        assert answer(apt.kernel("6.1.0-9"))["version"] == "6.1.0-9-amd64"
        assert answer(apt.kernel("6.12"))["version"] == "6.12.3+deb12-amd64"

    def test_unsigned_when_there_is_nothing_else(self, apt):
        apt.image("linux-image-6.1.0-51-amd64-unsigned")
        got = answer(apt.kernel("6.1"))
        assert got["version"] == "6.1.0-51-amd64" and got["source"].startswith("linux-image-6.1.0-51-amd64-unsigned ")

    def test_default_follows_the_meta_package(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        apt.image("linux-image-6.12.3+deb12-amd64")
        apt.package("linux-image-amd64", depends="linux-base-amd64, linux-image-6.1.0-42-amd64 (= 1.2-3)")
        assert answer(apt.kernel("default"))["version"] == "6.1.0-42-amd64"

    def test_package_split_into_parts(self, apt):
        version = "7.2.13+deb14-amd64"
        apt.package(f"linux-image-{version}", depends=f"dracut | initramfs-tools (>= 0.1), linux-base-{version} (= 1), "
                    f"linux-binary-{version} (= 1.2-3), linux-modules-{version} (= 1.2-3)")
        apt.package(f"linux-binary-{version}", {f"usr/lib/modules/{version}/vmlinuz": bzimage})
        apt.package(f"linux-modules-{version}", {f"usr/lib/modules/{version}/modules.order": "",
                                                 f"usr/lib/modules/{version}/modules.builtin": ""})
        apt.package(f"linux-base-{version}", {f"usr/lib/modules/{version}/config": "CONFIG_X=y\n"})
        got = answer(apt.kernel("7.2"))
        root = apt.cache / f"kernels/{version}/root"
        assert got["vmlinuz"] == f"{root}/usr/lib/modules/{version}/vmlinuz"
        assert got["config"] == f"{root}/usr/lib/modules/{version}/config"
        assert (pathlib.Path(got["modules"]) / "lib/modules" / version).is_dir()

    def test_second_call_asks_nobody_and_is_quick(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        first = answer(apt.kernel("6.1"))
        asked = len(apt.log())
        times = []
        for _ in range(3):
            start = time.monotonic()
            assert answer(apt.kernel("6.1")) == first
            times.append(time.monotonic() - start)
        assert len(apt.log()) == asked
        assert min(times) < 0.1

    def test_one_download_serves_every_spec(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        for spec in ("6.1", "6.1.0", "6", "6.1.0-42-amd64"):
            assert answer(apt.kernel(spec))["version"] == "6.1.0-42-amd64"
        assert len(apt.downloads()) == 1

    def test_a_moved_cache_still_answers(self, apt, tmp_path):
        apt.image("linux-image-6.1.0-42-amd64")
        answer(apt.kernel("6.1"))
        apt.cache.rename(tmp_path / "moved")
        apt.cache = tmp_path / "moved"
        assert answer(apt.kernel("6.1"))["modules"].startswith(str(tmp_path / "moved"))
        assert len(apt.downloads()) == 1

    def test_refresh(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        answer(apt.kernel("6.1"))
        apt.image("linux-image-6.1.0-43-amd64")
        assert answer(apt.kernel("6.1"))["version"] == "6.1.0-42-amd64"
        assert answer(apt.kernel("6.1", "--refresh"))["version"] == "6.1.0-43-amd64"
        assert answer(apt.kernel("6.1"))["version"] == "6.1.0-43-amd64"

    def test_nothing_to_be_had(self, apt):
        assert_refused(apt.kernel("6.1"), NEED, "6.1", "PATH")
        assert not apt.leftovers()

    def test_download_fails(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        (apt.dir / "broken").touch()
        assert_refused(apt.kernel("6.1"), NEED, "6.1")
        assert not apt.leftovers()
        (apt.dir / "broken").unlink()
        answer(apt.kernel("6.1"))

    def test_without_a_network_the_cache_is_better_than_nothing(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        answer(apt.kernel("6.1.0-42-amd64"))
        (apt.dir / "linux-image-6.1.0-42-amd64.deb").unlink()
        assert answer(apt.kernel("6.1"))["version"] == "6.1.0-42-amd64"

    def test_two_at_once(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        (apt.dir / "slow").write_text("1")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: apt.kernel("6.1"), range(4)))
        assert len({tuple(answer(r).items()) for r in results}) == 1
        assert len(apt.downloads()) == 1
        assert not apt.leftovers()

    @pytest.mark.parametrize("delay", [0.05, 0.15, 0.4])
    def test_killed_and_run_again(self, apt, delay):
        apt.image("linux-image-6.1.0-42-amd64")
        (apt.dir / "slow").write_text("0.5")
        process = subprocess.Popen(apt.argv("6.1"), env={**os.environ, **apt.env()}, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (apt.dir / "slow").unlink()
        assert not (apt.cache / "kernels/by-spec").exists()
        answer(apt.kernel("6.1"))
        assert not apt.leftovers()

    def test_terminated_cleans_up(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        (apt.dir / "slow").write_text("1")
        process = subprocess.Popen(apt.argv("6.1"), env={**os.environ, **apt.env()}, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 20
        while not apt.downloads() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
        assert process.returncode == 143
        assert not apt.leftovers()

    def test_remnant_without_marker_is_replaced(self, apt):
        apt.image("linux-image-6.1.0-42-amd64")
        (apt.cache / "kernels/6.1.0-42-amd64/root").mkdir(parents=True)
        answer(apt.kernel("6.1"))

    def test_cache_cannot_be_made(self, apt):
        apt.cache = pathlib.Path("/proc/nowhere")
        assert_refused(apt.kernel("6.1"), NEED, "/proc/nowhere")

    def test_list(self, apt):
        result = run(KERNEL, "--cache", apt.cache, "--list", env=apt.env())
        assert result.returncode == 0 and "known\tdefault\t" in result.stdout and "cached" not in result.stdout
        apt.image("linux-image-6.1.0-42-amd64")
        answer(apt.kernel("6.1"))
        result = run(KERNEL, "--cache", apt.cache, "--list", env=apt.env())
        assert "cached\t6.1.0-42-amd64\tlinux-image-6.1.0-42-amd64 1.2-3 (testsuite)\n" in result.stdout
        assert all(len(line.split("\t")) == 3 for line in result.stdout.splitlines() if not line.startswith("known\tPATH"))


# --- a debug kernel: of a source that only looks like one ---------------------------------------------------------------

# Knows one option of debug.config, and not the others.
FAKE_SOURCE = {
    "init/Kconfig": "config WQ_WATCHDOG\n\tbool x\n",
    "Makefile": """
x86_64_defconfig: ; echo CONFIG_OTHER=y >.config
olddefconfig: ; {olddefconfig}
bzImage: ; echo '  CC      mm/one.o'; echo $$MAKEFLAGS $$KERNEL >{dir}/environment; touch {dir}/building; {build}
	mkdir -p arch/x86/boot && cp {dir}/bzImage arch/x86/boot/
""",
}


def installed(apt):
    """A dpkg-query that knows all packages."""
    fake = apt.dir / "bin/dpkg-query"
    fake.write_text('#!/bin/sh\nfor name in "$@"; do echo "installed $name"; done\n')
    fake.chmod(0o755)


@pytest.mark.skipif("ID=debian" not in pathlib.Path("/etc/os-release").read_text().split(), reason="not Debian")
class TestDebug:
    VERSION = "6.1.9-headroom-debug"

    def source(self, apt, *, build="true", olddefconfig="true", release="6.1.9-2", version=None):
        installed(apt)
        bzimage(apt.dir / "bzImage", version or release.split("-")[0] + "-headroom-debug")
        series = ".".join(release.split(".")[:2])
        name, packed = f"linux-source-{series}", io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as tar:
            for path, text in FAKE_SOURCE.items():
                data = text.format(dir=apt.dir, build=build, olddefconfig=olddefconfig).encode() if path == "Makefile" else text.encode()
                info = tarfile.TarInfo(f"{name}/{path}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        shutil.rmtree(apt.build / name, ignore_errors=True)
        apt.package(name, {f"usr/src/{name}.tar.xz": packed.getvalue()}, release=release)
        shutil.rmtree(apt.build / "linux-source", ignore_errors=True)
        apt.package("linux-source", depends=f"{name} (= {release})")

    def leftovers(self, apt):
        return [p.name for p in (apt.cache / "kernels").iterdir() if p.name.startswith((".build.", ".tmp."))]

    def start(self, apt, spec="debug"):
        # A shell starts its background jobs with SIGINT ignored, and what is ignored at its start a shell cannot trap.
        process = subprocess.Popen(apt.argv(spec), env={**os.environ, **apt.env()}, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, start_new_session=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        deadline = time.monotonic() + 30
        while not (apt.dir / "building").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (apt.dir / "building").exists()
        return process

    @pytest.mark.parametrize("spec", ["debug:", "debug:six", "debug:6", "debug:6.1.2", "debug+", "debug+kasan", "debug:6.1+", "debugging",
                                      "debug:6.1 "])
    def test_unknown_variant(self, apt, spec):
        assert_refused(apt.kernel(spec), USAGE, "debug+lockdep", f"'{spec}'")
        assert not apt.cache.exists()

    def test_missing_packages_are_named_in_one_line(self, apt, tmp_path):
        self.source(apt)
        fake = apt.dir / "bin/dpkg-query"
        fake.write_text('#!/bin/sh\nfor name in "$@"; do echo "installed $name"; done | grep -vE " (flex|libelf-dev)$"\n')
        result = apt.kernel("debug")
        assert_refused(result, NEED, "flex, libelf-dev", "tools/deps.sh --for debug-kernel")
        assert len(result.stderr.splitlines()) == 1 and not apt.downloads()
        assert run(DEPS, "--for", "debug-kernel", "--print", env=apt.env()).stdout.split() == ["flex", "libelf-dev"]

    def test_answer_and_layout(self, apt):
        self.source(apt)
        got = answer(apt.kernel("debug"))
        root = apt.cache / "kernels" / self.VERSION
        assert got == {"version": self.VERSION, "vmlinuz": f"{root}/vmlinuz", "vmlinux": "", "modules": "",
                       "source": "linux-source-6.1 6.1.9-2 (testsuite)", "config": f"{root}/config"}
        config = pathlib.Path(got["config"]).read_text().splitlines()
        assert "CONFIG_OTHER=y" in config and "CONFIG_WQ_WATCHDOG=y" in config
        assert {p.name for p in root.iterdir()} == {"vmlinuz", "config", "complete"}
        assert not self.leftovers(apt)

    def test_second_call_asks_nobody_and_is_quick(self, apt):
        self.source(apt)
        first = answer(apt.kernel("debug"))
        asked, times = len(apt.log()), []
        for _ in range(3):
            start = time.monotonic()
            result = apt.kernel("debug")
            times.append(time.monotonic() - start)
            assert answer(result) == first and result.stderr == ""
        assert len(apt.log()) == asked
        assert min(times) < 0.1
        assert answer(apt.kernel(self.VERSION)) == first
        assert f"cached\t{self.VERSION}\tlinux-source-6.1 6.1.9-2 (testsuite)\n" in run(*apt.argv("--list"), env=apt.env()).stdout

    def test_one_build_serves_both_specs_until_the_source_is_newer(self, apt):
        self.source(apt)
        assert answer(apt.kernel("debug"))["version"] == answer(apt.kernel("debug:6.1"))["version"] == self.VERSION
        answer(apt.kernel("debug", "--refresh"))
        assert len(apt.downloads()) == 1
        self.source(apt, release="6.1.10-1")
        assert answer(apt.kernel("debug"))["version"] == self.VERSION
        assert answer(apt.kernel("debug", "--refresh"))["version"] == "6.1.10-headroom-debug"

    def test_other_options_are_another_kernel(self, apt):
        """What was built with an older debug.config is not an answer."""
        self.source(apt)
        answer(apt.kernel("debug"))
        complete = apt.cache / "kernels" / self.VERSION / "complete"
        complete.write_text(complete.read_text().replace("fragments=", "fragments=0"))
        answer(apt.kernel("debug"))
        assert len(apt.downloads()) == 2

    def test_lockdep_is_a_kernel_of_its_own(self, apt):
        self.source(apt)
        answer(apt.kernel("debug"))
        bzimage(apt.dir / "bzImage", "6.1.9-headroom-lockdep")
        got = answer(apt.kernel("debug:6.1+lockdep"))
        assert got["version"] == "6.1.9-headroom-lockdep"
        assert "CONFIG_PROVE_LOCKING=y" in pathlib.Path(got["config"]).read_text().splitlines()
        assert answer(apt.kernel("debug"))["version"] == self.VERSION

    def test_no_answer_to_a_version(self, apt):
        """Who asks for 6.1 wants Debian's, without a network too."""
        self.source(apt)
        answer(apt.kernel("debug"))
        assert_refused(apt.kernel("6.1"), NEED, "6.1")
        assert_refused(apt.kernel("debug:6.12"), NEED, "debug:6.12")

    def test_without_a_network_an_older_answer(self, apt):
        self.source(apt)
        answer(apt.kernel("debug"))
        (apt.dir / "linux-source-6.1.deb").unlink()
        assert answer(apt.kernel("debug:6.1"))["version"] == self.VERSION

    def test_callers_make_variables_stay_outside(self, apt):
        self.source(apt)
        answer(run(*apt.argv("debug"), env={**apt.env(), "MAKEFLAGS": " -- KERNEL=debug V=1", "KERNEL": "debug", "ARCH": "arm"}))
        assert "KERNEL" not in (apt.dir / "environment").read_text() and "debug" not in (apt.dir / "environment").read_text()

    def test_an_option_that_does_not_hold(self, apt):
        self.source(apt, olddefconfig="sed -i /WQ_WATCHDOG/d .config")
        result = apt.kernel("debug")
        assert result.returncode == 4 and result.stderr.splitlines()[-1].endswith("cannot be built with CONFIG_WQ_WATCHDOG=y")
        assert not self.leftovers(apt)

    def test_build_fails(self, apt):
        self.source(apt, build="echo 'mm/one.c:1:2: error: no such thing'; false")
        result = apt.kernel("debug")
        last = result.stderr.splitlines()[-1]
        assert result.returncode == 4 and result.stdout == "" and "mm/one.c:1:2: error: no such thing" in last
        log = apt.cache / "kernels/build-failed.log"
        assert str(log) in last and "CC      mm/one.o" in log.read_text()
        assert not self.leftovers(apt) and not (apt.cache / "kernels" / self.VERSION).exists()

    def test_became_something_else(self, apt):
        self.source(apt, version="6.1.8")
        result = apt.kernel("debug")
        assert result.returncode == 4 and "6.1.8" in result.stderr.splitlines()[-1]

    def test_progress(self, apt):
        self.source(apt, build="sleep 11")
        result = apt.kernel("debug")
        answer(result)
        assert len([line for line in result.stderr.splitlines() if "1 of about" in line and "mm/one.o" in line]) >= 2

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_ended_it_leaves_nothing(self, apt, how):
        self.source(apt, build="sleep 77.25")
        process = self.start(apt)
        start = time.monotonic()
        process.send_signal(how)
        process.communicate()
        assert process.returncode == 128 + how and time.monotonic() - start < 10
        assert not self.leftovers(apt) and not (apt.cache / "kernels" / self.VERSION).exists()
        assert not processes("77.25")

    def test_killed_it_ends_all_that_it_started(self, apt):
        self.source(apt, build="sleep 78.25")
        process = self.start(apt)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10
        while processes("78.25") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes("78.25") and not (apt.cache / "kernels" / self.VERSION).exists()
        self.source(apt)
        answer(apt.kernel("debug"))
        assert not self.leftovers(apt)

    def test_others_can_fetch_meanwhile(self, apt):
        self.source(apt, build="sleep 79.25")
        apt.image("linux-image-6.1.0-42-amd64")
        process = self.start(apt)
        result = apt.kernel("6.1")
        assert answer(result)["version"] == "6.1.0-42-amd64" and "waiting" not in result.stderr
        assert process.poll() is None and self.leftovers(apt)
        process.terminate()
        process.communicate()

    def test_two_at_once(self, apt):
        self.source(apt, build="sleep 1")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda _: apt.kernel("debug"), range(3)))
        assert {answer(r)["version"] for r in results} == {self.VERSION}
        assert len(apt.downloads()) == 1


def processes(word):
    """Those that have this word in their command line."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


# --- the real apt -------------------------------------------------------------------------------------------------------


def test_unknown_version_on_this_machine():
    """The real apt. It reads the package lists of every suite, once."""
    result = run(KERNEL, "--cache", SHARED_CACHE, "9.99", timeout=300)
    assert_refused(result, NEED, "9.99")


# --- images of a real kernel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def kernel():
    result = run(KERNEL, "--cache", SHARED_CACHE, "6.1", timeout=1200)
    if result.returncode == NEED:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    return answer(result)


@pytest.fixture(scope="session")
def init(tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "init"
    subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-Os", "-static", "-o", path, TOP / "runtime/guest/init.c"], check=True)
    return path


# Says what the guest must see, and ends it.
HEADROOM = r'''
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char line[256];
	FILE *f;
	printf("guest-argument=%s\n", argc == 2 ? argv[1] : "?");
	f = fopen("/proc/meminfo", "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "Shmem:", 6))
			fputs(line, stdout);
	f = fopen("/proc/mounts", "r");
	while (f && fgets(line, sizeof(line), f))
		fputs(line, stdout);
	fflush(stdout);
	reboot(RB_POWER_OFF);
}
'''


@pytest.fixture(scope="session")
def headroom(tmp_path_factory):
    directory = tmp_path_factory.mktemp("headroom")
    (directory / "headroom.c").write_text(HEADROOM)
    subprocess.run(["gcc", "-O1", "-static", "-o", directory / "headroom", directory / "headroom.c"], check=True)
    return directory / "headroom"


def image_argv(cache, kernel, init, headroom, *args):
    return [str(a) for a in (IMAGE, "--cache", cache, "--kernel-version", kernel["version"], "--modules", kernel["modules"],
                             "--init", init, "--headroom", headroom, *args)]


def unpacked(initramfs, directory):
    directory.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=gzip.open(initramfs).read(), cwd=directory, check=True)
    return directory


def in_image(image, path):
    """True if the path is in the file system; needs no mount."""
    out = subprocess.run(["debugfs", "-R", f"stat {path}", image], capture_output=True, text=True, check=False,
                         env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    return "Inode:" in out.stdout


class TestImage:
    @pytest.fixture(scope="class")
    def built(self, kernel, init, headroom, tmp_path_factory):
        cache = tmp_path_factory.mktemp("images")
        argv = image_argv(cache, kernel, init, headroom, "--program", "fio", "--program", "no-such-program?", "--module", "dm-snapshot",
                          "--module", "nbd?", "--module", "no-such-module?", "--module", "ext4")
        return cache, argv, answer(run(*argv, env=NO_NETWORK))

    def test_initramfs_has_init_and_drivers_only(self, built, tmp_path, init):
        root = unpacked(built[2]["initramfs"], tmp_path / "initramfs")
        assert {p.name for p in root.iterdir()} == {"init", "early", "modules"}
        assert (root / "init").read_bytes() == init.read_bytes()
        early = (root / "early").read_text().split()
        assert sorted(early) == sorted(f"/modules/{p.name}" for p in (root / "modules").iterdir())
        order = [pathlib.Path(p).stem for p in early]
        assert order.index("virtio_ring") < order.index("virtio_blk") and order.index("jbd2") < order.index("ext4")
        for module in (root / "modules").iterdir():
            assert module.read_bytes()[:4] == b"\x7fELF"  # not packed

    def test_image_contents(self, built, kernel):
        image = built[2]["image"]
        for path in ("/usr/bin/headroom", "/usr/bin/fio", "/bin/sh", "/sbin/modprobe", "/lib64/ld-linux-x86-64.so.2", "/etc/passwd",
                     "/scratch", "/proc", f"/lib/modules/{kernel['version']}/modules.dep",
                     f"/lib/modules/{kernel['version']}/modules.builtin",
                     f"/lib/modules/{kernel['version']}/kernel/drivers/md/dm-snapshot.ko",
                     f"/lib/modules/{kernel['version']}/kernel/drivers/md/dm-mod.ko"):
            assert in_image(image, path), path
        assert not in_image(image, "/usr/bin/no-such-program")
        run("/sbin/e2fsck", "-fn", image).check_returncode()

    def test_second_call_is_quick_and_same(self, built):
        _, argv, first = built
        times = []
        for _ in range(3):
            start = time.monotonic()
            result = run(*argv, env=NO_NETWORK)
            times.append(time.monotonic() - start)
            assert answer(result) == first and result.stderr == ""
        assert min(times) < 0.3

    def test_same_contents_same_initramfs_and_size(self, built, tmp_path):
        _, argv, first = built
        other = answer(run(*[tmp_path if a == str(built[0]) else a for a in argv]))
        assert pathlib.Path(other["initramfs"]).read_bytes() == pathlib.Path(first["initramfs"]).read_bytes()
        assert os.path.getsize(other["image"]) == os.path.getsize(first["image"])  # change times of inodes differ

    def test_a_new_build_makes_a_new_image(self, kernel, init, headroom, tmp_path):
        mine = tmp_path / "headroom"
        shutil.copy2(headroom, mine)
        first = answer(run(*image_argv(tmp_path / "c", kernel, init, mine)))
        os.utime(mine, (1, 1))
        assert answer(run(*image_argv(tmp_path / "c", kernel, init, mine))) != first
        assert pathlib.Path(first["image"]).exists()

    def test_old_images_are_swept(self, kernel, init, headroom, tmp_path):
        old = []
        for i in range(10):
            directory = tmp_path / f"c/images/old-{i}"
            directory.mkdir(parents=True)
            (directory / "complete").touch()
            os.utime(directory, (time.time() - 86400 + i,) * 2)
            old.append(directory)
        got = answer(run(*image_argv(tmp_path / "c", kernel, init, headroom)))
        assert [d.exists() for d in old] == [False] * 3 + [True] * 7
        assert pathlib.Path(got["image"]).exists()

    def test_built_in_modules(self, kernel, init, headroom, tmp_path):
        """Named and built in is as good as there."""
        builtin = pathlib.Path(kernel["modules"], "lib/modules", kernel["version"], "modules.builtin").read_text().split()
        answer(run(*image_argv(tmp_path, kernel, init, headroom, "--module", pathlib.Path(builtin[0]).stem)))

    def test_no_modules_means_all_built_in(self, init, headroom, tmp_path):
        got = answer(run(*image_argv(tmp_path, {"version": "5.4.273", "modules": ""}, init, headroom, "--module", "dm-snapshot")))
        root = unpacked(got["initramfs"], tmp_path / "initramfs")
        assert (root / "early").read_text() == "" and not list((root / "modules").iterdir())
        # An index without modules would say that each one is missing.
        assert in_image(got["image"], "/lib/modules/5.4.273/modules.builtin")
        assert not in_image(got["image"], "/lib/modules/5.4.273/modules.dep.bin")

    @pytest.mark.parametrize("option", ["--module", "--early-module"])
    def test_unknown_module(self, kernel, init, headroom, tmp_path, option):
        result = run(*image_argv(tmp_path, kernel, init, headroom, option, "no-such-module"))
        assert_refused(result, NEED, "no-such-module")
        assert not list((tmp_path / "images").glob(".tmp.*"))

    def test_unknown_program_and_missing_files(self, kernel, init, headroom, tmp_path):
        assert_refused(run(*image_argv(tmp_path, kernel, init, headroom, "--program", "no-such-program")), NEED, "no-such-program")
        assert_refused(run(*image_argv(tmp_path, kernel, tmp_path / "init", headroom)), NEED, "init")
        other = dict(kernel, version="9.9.9")
        assert_refused(run(*image_argv(tmp_path, other, init, headroom)), NEED, "9.9.9")

    def test_two_at_once_and_killed(self, kernel, init, headroom, tmp_path):
        argv = image_argv(tmp_path, kernel, init, headroom, "--module", "dm-crypt")
        for delay in (0.1, 0.4, 0.8):
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda _: run(*argv), range(3)))
        assert len({tuple(answer(r).items()) for r in results}) == 1
        assert sum("building" in r.stderr for r in results) <= 1
        # One that was killed after its rename left its own behind: the next build sweeps, an answer from the cache does not.
        answer(run(*argv, "--module", "dm-mod"))
        assert not list((tmp_path / "images").glob(".tmp.*"))

    @pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")
    def test_program_by_path(self, kernel, init, headroom, tmp_path):
        path = shutil.which("nbdkit")
        assert in_image(answer(run(*image_argv(tmp_path, kernel, init, headroom, "--program", path)))["image"], path)


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
class TestBoot:
    """The guest's first process, in a guest. TCG only: what is tested here does not depend on the accelerator."""

    @pytest.fixture(scope="class")
    def image(self, kernel, init, headroom, tmp_path_factory):
        return answer(run(*image_argv(tmp_path_factory.mktemp("boot"), kernel, init, headroom)))

    def boot(self, kernel, image, words=""):
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "256M", "-nographic", "-no-reboot",
                "-monitor", "none", "-serial", "stdio", "-kernel", kernel["vmlinux"] or kernel["vmlinuz"], "-initrd", image["initramfs"],
                "-append", f"console=ttyS0 panic=-1 quiet {words}",
                "-drive", f"file={image['image']},if=virtio,format=raw,readonly=on"]
        result = run(*argv, timeout=90)
        assert result.returncode == 0, result.stderr
        return result.stdout.replace("\r", "").splitlines()

    def test_reaches_headroom_and_frees_the_initramfs(self, kernel, image):
        lines = self.boot(kernel, image)
        assert "guest-argument=guest" in lines
        assert not [line for line in lines if "FATAL" in line]
        # The initramfs, of more than 3 MiB, lay in shared memory. A few pages hang in per-CPU counters.
        shmem_kib = [int(line.split()[1]) for line in lines if line.startswith("Shmem:")]
        assert len(shmem_kib) == 1 and shmem_kib[0] < 256
        mounts = {fields[1]: fields for fields in map(str.split, lines) if len(fields) == 6 and fields[1].startswith("/")}
        assert mounts["/"][0] == "/dev/vda" and mounts["/"][3].startswith("ro")
        assert {"/dev", "/proc", "/sys", "/run", "/tmp"} <= set(mounts)

    def test_without_drivers_it_says_so_and_powers_off(self, kernel, init, headroom, tmp_path):
        image = answer(run(*image_argv(tmp_path, dict(kernel, modules=""), init, headroom)))
        start = time.monotonic()
        lines = self.boot(kernel, image)
        fatal = [line for line in lines if line.startswith("headroom-init: FATAL: ")]
        assert len(fatal) == 1 and "/dev/vda" in fatal[0]
        assert time.monotonic() - start < 60

    def test_probe(self, kernel, image):
        lines = self.boot(kernel, image, "headroom.probe")
        assert "headroom-init: probe ok" in lines and "guest-argument=guest" not in lines


# --- deps.sh ------------------------------------------------------------------------------------------------------------


def hide_packages(tmp_path, *names):
    """A dpkg-query that does not know these."""
    fake = tmp_path / "bin/dpkg-query"
    fake.parent.mkdir()
    pattern = "|".join(names)
    fake.write_text(f"#!/bin/sh\n/usr/bin/dpkg-query \"$@\" | grep -vE ' ({pattern})$'\n")
    fake.chmod(0o755)
    return {"PATH": f"{fake.parent}:{os.environ['PATH']}"}


@pytest.mark.skipif("ID=debian" not in pathlib.Path("/etc/os-release").read_text().split(), reason="not Debian")
class TestDeps:
    def test_print_names_what_is_missing(self, tmp_path):
        before = run(DEPS, "--print").stdout.split()
        result = run(DEPS, "--print", env=hide_packages(tmp_path, "fio", "pkgconf", "pkg-config"))
        assert result.returncode == NEED
        assert set(result.stdout.split()) - set(before) == {"fio", "pkgconf"} - set(before)

    def test_one_of_the_alternatives_is_enough(self, tmp_path):
        if run(DEPS, "--print").returncode:
            pytest.skip("packages are missing here")
        other = "pkgconf" if run("dpkg-query", "-W", "-f", "${db:Status-Status}", "pkg-config").stdout == "installed" else "pkg-config"
        assert run(DEPS, "--print", env=hide_packages(tmp_path, other)).returncode == 0

    def test_nothing_missing_is_quick(self):
        if run(DEPS, "--print").returncode:
            pytest.skip("packages are missing here")
        start = time.monotonic()
        result = run(DEPS, env=NO_NETWORK)
        assert time.monotonic() - start < 0.2
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_without_root_it_names_the_one_command(self, tmp_path):
        env = hide_packages(tmp_path, "fio")
        for directory in [tmp_path, *tmp_path.parents[:2]]:
            directory.chmod(0o755)
        # From stdin: the tree itself may be out of reach for anybody but root.
        result = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-s"], input=DEPS.read_text(),
                                text=True, capture_output=True, env={**os.environ, **env}, timeout=60)
        assert result.returncode == NEED
        assert "apt-get install" in result.stderr and "fio" in result.stderr and len(result.stderr.splitlines()) == 1
