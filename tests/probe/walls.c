// What the walls around a container let through, one line a question: `question<TAB>answer`. Run in a container of dockerd
// and in one of ours, the two lists are compared (tests/walls.rs). Static, without arguments.
//
// Every system call is made by a child of its own with arguments that mean nothing (-1), so that one that is let through
// does no harm: it fails for its arguments. EPERM and ENOSYS are what a filter says.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *word(long result, int error) {
    if (result != -1) return "let through";
    switch (error) {
        case EPERM: return "EPERM";
        case ENOSYS: return "ENOSYS";
        // What it says of meaningless arguments depends on the kernel: it was let through.
        default: return "let through";
    }
}

// The call in a child of its own; what it said, or that it never came back.
static void call(const char *question, long number, long a, long b, long c, long d, long e, long f) {
    int ends[2];
    if (pipe(ends)) exit(1);
    pid_t child = fork();
    if (!child) {
        alarm(1);
        signal(SIGALRM, SIG_DFL);
        long result = syscall(number, a, b, c, d, e, f);
        int said[2] = {result == -1 ? -1 : 0, errno};
        if (write(ends[1], said, sizeof said) < 0) _exit(1);
        _exit(0);
    }
    close(ends[1]);
    int said[2];
    // A call that closes everything, waits or kills its caller was let through.
    const char *answer = read(ends[0], said, sizeof said) == sizeof said ? word(said[0], said[1]) : "let through";
    close(ends[0]);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    printf("%s\t%s\n", question, answer);
}

static void calls(void) {
    for (long number = 0; number <= LAST; number++) {
        // They do not come back, or do it twice; every container may make them, or nothing would run.
        if (number == SYS_exit || number == SYS_exit_group || number == SYS_rt_sigreturn) continue;
#ifdef SYS_vfork
        if (number == SYS_vfork || number == SYS_fork || number == SYS_pause) continue;
#endif
        char question[64];
        snprintf(question, sizeof question, "call %03ld", number);
        call(question, number, -1, -1, -1, -1, -1, -1);
    }
    struct { const char *name; long number, a, b, c; } some[] = {
        {"clone CLONE_NEWUSER", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0},
        {"clone CLONE_NEWNS", SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0},
        {"clone CLONE_NEWNET", SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0},
        {"clone CLONE_NEWPID", SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0},
        {"clone CLONE_NEWCGROUP", SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0},
        {"unshare CLONE_NEWUSER", SYS_unshare, CLONE_NEWUSER, 0, 0},
        {"unshare CLONE_FILES", SYS_unshare, CLONE_FILES, 0, 0},
        {"personality PER_LINUX", SYS_personality, 0, 0, 0},
        {"personality PER_LINUX32", SYS_personality, 8, 0, 0},
        {"personality UNAME26", SYS_personality, 0x20000, 0, 0},
        {"personality ADDR_NO_RANDOMIZE", SYS_personality, 0x40000, 0, 0},
        {"socket AF_UNIX", SYS_socket, AF_UNIX, SOCK_STREAM, 0},
        {"socket AF_INET raw", SYS_socket, AF_INET, SOCK_RAW, 1},
        {"socket AF_PACKET", SYS_socket, AF_PACKET, SOCK_RAW, 0},
        {"socket AF_NETLINK", SYS_socket, AF_NETLINK, SOCK_RAW, 0},
        {"socket AF_VSOCK", SYS_socket, AF_VSOCK, SOCK_STREAM, 0},
        {"socket AF_ALG", SYS_socket, AF_ALG, SOCK_SEQPACKET, 0},
        {"socket AF_KEY", SYS_socket, AF_KEY, SOCK_RAW, 2},
        {"socket AF_RXRPC", SYS_socket, 33, SOCK_DGRAM, 0},
        {"setns of an own namespace", SYS_setns, open("/proc/self/ns/uts", O_RDONLY), 0, 0},
        {"ptrace TRACEME", SYS_ptrace, 0, 0, 0},
        {"keyctl GET_KEYRING_ID", SYS_keyctl, 0, -3, 0},
        {"bpf PROG_LOAD", SYS_bpf, 5, 0, 0},
        {"syslog SIZE_BUFFER", SYS_syslog, 10, 0, 0},
        {"chroot /", SYS_chroot, (long)"/", 0, 0},
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        call(some[i].name, some[i].number, some[i].a, some[i].b, some[i].c, 0, 0, 0);
}

// Lines of /proc/self/status that tell of rights.
static void rights(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    while (fgets(line, sizeof line, status)) {
        static const char *wanted[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:",
                                       "Seccomp:", "Groups:", "Uid:", "Gid:"};
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            size_t length = strlen(wanted[i]);
            if (strncmp(line, wanted[i], length)) continue;
            line[strcspn(line, "\n")] = 0;
            printf("right %.*s\t", (int)length - 1, line);
            // One space for tabs: the last columns are the same for all.
            for (char *c = line + length + strspn(line + length, "\t "); *c; c++) putchar(*c == '\t' ? ' ' : *c);
            putchar('\n');
        }
    }
    fclose(status);
}

// Mounts at and below /proc, /sys and /dev: type and whether written to.
static void mounts(void) {
    FILE *info = fopen("/proc/self/mountinfo", "r");
    char line[4096];
    while (fgets(line, sizeof line, info)) {
        char place[512], options[512], *end = strstr(line, " - ");
        if (!end || sscanf(line, "%*d %*d %*s %*s %511s %511s", place, options) != 2) continue;
        if (strncmp(place, "/proc", 5) && strncmp(place, "/sys", 4) && strncmp(place, "/dev", 4)) continue;
        // The hierarchies are the machine's.
        if (!strncmp(place, "/sys/fs/cgroup/", 15)) continue;
        char type[64];
        if (sscanf(end + 3, "%63s", type) != 1) continue;
        printf("mount %s\t%s %s\n", place, strncmp(type, "cgroup", 6) ? type : "cgroup", options);
    }
    fclose(info);
}

static const char *said(int ok) {
    if (ok) return "yes";
    return errno == EPERM || errno == EACCES ? "denied" : errno == EROFS ? "read-only" : errno == ENOENT ? "missing" : "other";
}

static void places(void) {
    static const char *read_me[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts",
                                    "/proc/kmsg", "/proc/1/mem", "/proc/kpagecount", "/proc/kpageflags"};
    for (size_t i = 0; i < sizeof read_me / sizeof *read_me; i++) {
        int file = open(read_me[i], O_RDONLY | O_NONBLOCK);
        char byte;
        ssize_t n = file < 0 ? -1 : read(file, &byte, 1);
        printf("read %s\t%s\n", read_me[i], n == 1 ? "yes" : n == 0 ? "empty" : said(0));
        if (file >= 0) close(file);
    }
    static const char *write_me[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/self/oom_score_adj",
        "/proc/self/timerslack_ns", "/sys/kernel/profiling", "/sys/kernel/uevent_helper", "/sys/power/state",
        "/proc/self/attr/current"};
    for (size_t i = 0; i < sizeof write_me / sizeof *write_me; i++) {
        int file = open(write_me[i], O_WRONLY);
        printf("write %s\t%s\n", write_me[i], said(file >= 0));
        if (file >= 0) close(file);
    }
    static const char *folders[] = {"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware",
                                    "/sys/devices/virtual/powercap"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        DIR *folder = opendir(folders[i]);
        int entries = 0;
        while (folder && readdir(folder)) entries++;
        printf("list %s\t%s\n", folders[i], !folder ? said(0) : entries <= 2 ? "empty" : "yes");
        if (folder) closedir(folder);
    }
}

static void devices(void) {
    DIR *folder = opendir("/dev");
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat stat;
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        if (lstat(path, &stat)) continue;
        printf("device %s\t%o", path, stat.st_mode);
        if (S_ISCHR(stat.st_mode) || S_ISBLK(stat.st_mode))
            printf(" %u:%u", major(stat.st_rdev), minor(stat.st_rdev));
        putchar('\n');
    }
    closedir(folder);
    struct { const char *name; mode_t kind; unsigned major, minor; } some[] = {
        {"mem", S_IFCHR, 1, 1}, {"kmsg", S_IFCHR, 1, 11}, {"port", S_IFCHR, 1, 4}, {"null", S_IFCHR, 1, 3},
        {"zero", S_IFCHR, 1, 5}, {"tun", S_IFCHR, 10, 200}, {"fuse", S_IFCHR, 10, 229}, {"kvm", S_IFCHR, 10, 232},
        {"loop0", S_IFBLK, 7, 0}, {"loop-control", S_IFCHR, 10, 237}, {"sda", S_IFBLK, 8, 0}, {"vda", S_IFBLK, 254, 0},
        {"tty0", S_IFCHR, 4, 0}, {"console", S_IFCHR, 5, 1}, {"input", S_IFCHR, 13, 63}, {"dri", S_IFCHR, 226, 0}};
    mkdir("/tmp", 01777);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/node-%s", some[i].name);
        int made = !mknod(path, some[i].kind | 0666, makedev(some[i].major, some[i].minor));
        printf("mknod %s\t%s\n", some[i].name, said(made));
        if (!made) continue;
        int file = open(path, O_RDWR | O_NONBLOCK);
        // A device that the machine lacks (ENXIO, ENODEV) was allowed to be asked for.
        printf("open %s\t%s\n", some[i].name, file < 0 && (errno == EPERM || errno == EACCES) ? "denied" : "let through");
        if (file >= 0) close(file);
        unlink(path);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    rights();
    mounts();
    places();
    devices();
    calls();
    return 0;
}
