// A FUSE file system that is mounted and never answers: whoever looks into it waits until this program ends.
// hang FOLDER: mounts there, prints "mounted", and sleeps.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

int main(int count, char **words) {
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (count != 2 || fuse < 0) return 1;
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
    if (mount("hang", words[1], "fuse.hang", 0, options)) return 2;
    // The kernel's first request is taken, so that it believes in us; no answer ever goes back.
    char request[1 << 17];
    if (read(fuse, request, sizeof request) < 0) return 3;
    puts("mounted");
    fflush(stdout);
    pause();
    return 0;
}
