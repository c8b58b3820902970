// SPDX-License-Identifier: MIT
/*
 * The guest's first process. It loads the drivers of the system disk from the initramfs, mounts that disk, deletes the
 * initramfs (whose pages would otherwise be taken from the memory under test) and becomes `headroom guest`.
 *
 * Nothing outlives it but the mounts. Whatever goes wrong ends in one line on the console and a power-off, so that
 * the host never waits for a guest that cannot come up.
 *
 * Words of the kernel command line:
 *   headroom.probe   say so and power off: can this machine boot a guest at all?
 *   headroom.shell   a busybox shell instead of headroom, for a look around
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DISK	     "/dev/vda"
#define DISK_WAIT_MS 20000 /* virtio may be probed asynchronously, and TCG is slow */
#define DISK_POLL_MS 10
#define NEW_ROOT     "/root"

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* One write, so that kernel messages cannot land in the middle of a line. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[512];
	size_t len;
	va_list args;

	snprintf(line, sizeof(line), "headroom-init: ");
	len = strlen(line);
	va_start(args, format);
	vsnprintf(line + len, sizeof(line) - len - 1, format, args);
	va_end(args);
	len = strlen(line);
	line[len++] = '\n';
	if (write(STDOUT_FILENO, line, len) < 0) {
		/* Without a console there is nobody to tell. */
	}
}

__attribute__((noreturn)) static void power_off(void)
{
	sync();
	tcdrain(STDOUT_FILENO); /* or the last line may never leave the UART */
	/* Without ACPI a power-off only halts the CPU; a reset ends QEMU too, which runs with -no-reboot. */
	reboot(access("/sys/firmware/acpi", F_OK) == 0 ? RB_POWER_OFF : RB_AUTOBOOT);
	for (;;)
		pause();
}

/* err is an errno, or 0 where there is none to tell. */
__attribute__((noreturn, format(printf, 2, 3))) static void fatal(int err, const char *format, ...)
{
	char what[300];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (err)
		say("FATAL: %s: %s", what, strerror(err));
	else
		say("FATAL: %s", what);
	power_off();
}

/* Reads a small file whole, as a string. */
static int read_text(const char *path, char *text, size_t size)
{
	size_t len = 0;
	ssize_t got;
	int fd, err = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (len < size - 1 && (got = read(fd, text + len, size - 1 - len)) != 0) {
		if (got < 0) {
			err = -errno;
			break;
		}
		len += (size_t)got;
	}
	close(fd);
	text[len] = '\0';
	return err;
}

static bool has_word(const char *text, const char *word)
{
	const char *at = text;
	size_t len = strlen(word);

	while ((at = strstr(at, word)) != NULL) {
		if ((at == text || at[-1] == ' ') && strchr(" \n", at[len]))
			return true;
		at += len;
	}
	return false;
}

static void mount_or_die(const char *what, const char *where, const char *type, unsigned long flags, const char *data)
{
	if (mkdir(where, 0755) && errno != EEXIST && errno != EROFS)
		fatal(errno, "cannot make %s", where);
	/* devtmpfs is already there where the kernel mounts it by itself (CONFIG_DEVTMPFS_MOUNT). */
	if (mount(what, where, type, flags, data) && errno != EBUSY)
		fatal(errno, "cannot mount %s on %s", type ? type : what, where);
}

/* Loads what /early lists, in its order. An error is told, and shows in the end whether it mattered. */
static void load_modules(void)
{
	static char list[8192];
	char *save = NULL, *path;
	int err, fd;

	err = read_text("/early", list, sizeof(list));
	if (err) {
		if (err != -ENOENT)
			say("cannot read /early: %s", strerror(-err));
		return;
	}
	for (path = strtok_r(list, "\n", &save); path; path = strtok_r(NULL, "\n", &save)) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			say("cannot open module %s: %s", path, strerror(errno));
			continue;
		}
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			say("cannot load module %s: %s", path, strerror(errno));
		close(fd);
	}
}

/* Waits for the disk; knows the hopeless cases at once. */
static void wait_for_disk(void)
{
	const long long deadline = now_ms() + DISK_WAIT_MS;
	const struct timespec nap = { .tv_nsec = DISK_POLL_MS * 1000000L };

	while (access(DISK, F_OK)) {
		/* A driver registers before its module has finished loading, so it is there by now or never. */
		if (access("/sys/bus/virtio/drivers/virtio_blk", F_OK))
			fatal(ENODEV, "no " DISK ", the kernel has no driver virtio_blk");
		if (now_ms() >= deadline)
			fatal(ETIMEDOUT, "no " DISK " within %d s", DISK_WAIT_MS / 1000);
		nanosleep(&nap, NULL);
	}
}

/* Deletes everything below the directory that is on the same file system. Takes the descriptor over. */
static void delete_below(int dirfd, dev_t device)
{
	struct dirent *entry;
	struct stat st;
	int fd;
	DIR *dir;

	dir = fdopendir(dirfd);
	if (!dir) {
		close(dirfd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) || st.st_dev != device)
			continue;
		if (S_ISDIR(st.st_mode)) {
			fd = openat(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			if (fd >= 0)
				delete_below(fd, device);
		}
		/* Mount points stay, and fail here. */
		unlinkat(dirfd, entry->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
	}
	closedir(dir);
}

static void switch_root(void)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys" };
	char target[64];
	struct stat st;
	size_t i;
	int fd;

	for (i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
		snprintf(target, sizeof(target), NEW_ROOT "%s", moved[i]);
		if (mount(moved[i], target, NULL, MS_MOVE, NULL))
			fatal(errno, "cannot move %s to %s", moved[i], target);
	}
	fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		fatal(errno, "cannot open the initramfs");
	delete_below(fd, st.st_dev);
	if (chdir(NEW_ROOT))
		fatal(errno, "cannot enter " NEW_ROOT);
	if (mount(".", "/", NULL, MS_MOVE, NULL))
		fatal(errno, "cannot move " NEW_ROOT " to /");
	if (chroot(".") || chdir("/"))
		fatal(errno, "cannot change the root");
}

int main(void)
{
	static char cmdline[4096];
	char *const env[] = {
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LC_ALL=C", "TERM=dumb", NULL
	};
	char *const guest[] = { "/usr/bin/headroom", "guest", NULL };
	char *const shell[] = { "/bin/sh", "-i", NULL };
	char *const *argv = guest;
	int fd;

	mount_or_die("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd >= 0) {
		dup2(fd, STDIN_FILENO);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		if (fd > STDERR_FILENO)
			close(fd);
		/* The firmware leaves its last line open. */
		if (write(STDOUT_FILENO, "\n", 1) < 0) {
			/* As in say(). */
		}
	}
	mount_or_die("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_die("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)))
		cmdline[0] = '\0';
	if (has_word(cmdline, "headroom.probe")) {
		say("probe ok");
		power_off();
	}
	if (has_word(cmdline, "headroom.shell"))
		argv = shell;

	load_modules();
	wait_for_disk();
	mount_or_die(DISK, NEW_ROOT, "ext4", MS_RDONLY | MS_NODEV, NULL);
	switch_root();
	mount_or_die("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m");
	mount_or_die("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=16m");
	mount_or_die("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=16m");

	say("%lld ms after the kernel's start: exec %s", now_ms(), argv[0]);
	execve(argv[0], argv, env);
	fatal(errno, "cannot execute %s", argv[0]);
}
